"""The layers of the design, held by import-linter."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_imports_point_down_only():
    """No module imports from a layer above its own, and no new module stands outside the layers."""
    linter = shutil.which("lint-imports", path=sysconfig.get_path("scripts"))
    assert linter, "import-linter is not installed"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout
