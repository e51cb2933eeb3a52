"""What developers run is what CI runs, and the suite keeps its own rules."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
CI = (ROOT / ".ci/run").read_text("utf-8").splitlines()
KINDS = {"unit", "contract", "integration", "crash", "e2e"}


def test_ci_begins_with_the_readmes_command():
    """What the README tells a newcomer to type is tested as it stands, before anything else is installed."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (command,) = re.findall(r"^## Developing\n\n```\n(.*)\n```$", readme, re.MULTILINE)
    assert command in CI
    assert not any(".venv/bin" in line for line in CI[: CI.index(command)])


def test_the_pre_commit_hooks_are_cis_checks():
    """A commit that the hooks let through passes CI's lint, format, types and layers, and the other way round."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    checks = [line for line in CI if line.startswith(".venv/bin/") and "/pip " not in line]
    assert [hook["entry"] for hook in hooks] == checks
    assert {repo["repo"] for repo in config["repos"]} == {"local"}, "a hook that is downloaded is another version"
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in hooks)


def imported(file):
    """The top-level names of the modules that `file` imports."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


def test_no_test_module_imports_from_another_one():
    """What several tests need is in tests/support: a test module can be moved, split or deleted by itself."""
    files = [file for folder in (*KINDS, "support") for file in (ROOT / "tests" / folder).rglob("*.py")]
    assert len(files) > 50
    assert [str(file) for file in files if KINDS & set(imported(file))] == []


def test_collecting_tests_installs_nothing_and_needs_no_cache(tmp_path):
    """Whoever lists the tests of SQS waits for no server, and pytest's cache may be switched off."""
    options = ["--collect-only", "-q", "-p", "no:cacheprovider"]
    environ = os.environ | {"PIP_NO_INDEX": "1", "BULKFETCH_TEST_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pytest", *options, "tests/integration/test_sqs.py"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "cache").exists()
