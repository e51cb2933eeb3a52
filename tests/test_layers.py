"""The layers of the design, held by import-linter."""

import pkgutil
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import bulkfetch

ROOT = Path(__file__).parent.parent


def test_imports_point_down_only():
    """No module imports from a layer above its own, nor from a sibling that its layer keeps apart."""
    linter = shutil.which("lint-imports", path=sysconfig.get_path("scripts"))
    assert linter, "import-linter is not installed"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


def test_every_module_has_a_layer():
    """A new module cannot stand outside the layers, where nothing would check it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contract = tomllib.load(file)["tool"]["importlinter"]["contracts"][0]
    layered = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    found = {f"bulkfetch.{module.name}" for module in pkgutil.iter_modules(bulkfetch.__path__)}
    assert found - {"bulkfetch.__main__"} == layered
