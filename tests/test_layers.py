"""The layers of the design, held by import-linter."""

import ast
import pkgutil
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import bulkfetch

ROOT = Path(__file__).parent.parent

PROCESS_WIDE = {"environ", "environb", "getenv", "putenv", "add_signal_handler", "open_signal_receiver"}
"""What reads or changes the process as a whole, beside the modules `signal` and `resource`."""


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


def test_only_command_line_and_service_touch_the_process():
    """Environment, signals and limits belong to the process: whatever embeds the rest keeps its own."""
    package = Path(bulkfetch.__file__).parent
    found = {
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in ("cli", "service")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if touches_the_process(node)
    }
    assert found == set()


def touches_the_process(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(name.name in ("signal", "resource") for name in names)
        case ast.ImportFrom(module=module, names=names):
            return module in ("signal", "resource") or any(name.name in PROCESS_WIDE for name in names)
        case ast.Attribute(attr=name):
            return name in PROCESS_WIDE
        case _:
            return False
