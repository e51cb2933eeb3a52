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
PACKAGE = ROOT / "bulkfetch"
HANDS_ON = {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign}
"""What an `__init__` may consist of: its docstring, imports, and `__all__` or a version."""

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


def test_the_listing_stays_readable():
    """At most twelve modules lie loose beside the packages, and a package's `__init__` only hands names on."""
    loose = [path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    assert len(loose) <= 12
    for path in PACKAGE.glob("*/**/__init__.py"):
        assert {type(node) for node in ast.parse(path.read_text()).body} <= HANDS_ON, path


def test_unit_tests_lie_where_their_module_does():
    """A unit test is found under the folder of the package that it is about, and imports from it."""
    unit = ROOT / "tests" / "unit"
    for path in unit.rglob("test_*.py"):
        folder = path.parent.relative_to(unit)
        assert (PACKAGE / folder).is_dir(), path
        assert ".".join(("bulkfetch", *folder.parts)) in path.read_text(), path


def test_one_module_knows_the_retry_library():
    """Every loop that tries again is in `retrying.py`: nothing else imports tenacity."""
    assert {path.name for path in PACKAGE.rglob("*.py") if imports(path, "tenacity")} == {"retrying.py"}


def test_one_module_touches_private_parts_of_the_nats_client():
    """What a new version of the NATS client may take away is used in one file, which has a test of its own: elsewhere
    no private name of another object is used, and no class of the client is extended."""
    for path in PACKAGE.rglob("*.py"):
        names = imports(path, "nats")
        if names and path.name != "nats_internals.py":
            text = path.read_text()
            assert "SLF001" not in text, path
            bases = {ast.unparse(base) for node in ast.walk(ast.parse(text)) for base in getattr(node, "bases", ())}
            assert not bases & names, path


def imports(path: Path, library: str) -> set[str]:
    """The names that a module imports from `library`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names if name.name.split(".")[0] == library}
            case ast.ImportFrom(module=str() as module, names=names) if module.split(".")[0] == library:
                found |= {name.asname or name.name for name in names}
    return found


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
