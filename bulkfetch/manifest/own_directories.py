"""The archive's own directories: made with modes alike, and no way out of it (CWE-59)."""

import os
from pathlib import Path

from bulkfetch.durable import disk_errors, make_directory
from bulkfetch.errors import FatalError
from bulkfetch.keys import MANIFESTS, STATE
from bulkfetch.text import printable


def make_own_directories(root: Path) -> None:
    """Create the archive `root` with its own directories, as far as they are missing. Blocks.

    Raises:
        FatalError: they cannot be created; or one of them, or what is directly in `.bulkfetch`, is a symbolic link. The
            ledger and the like are opened by their paths, which would lead out of the archive.
    """
    with disk_errors(f"create the archive {root}"):
        make_directory(root, 0o750)
        for name, mode in ((STATE, 0o700), (MANIFESTS, 0o750)):
            refuse_link(root / name)
            make_directory(root / name, mode)
        with os.scandir(root / STATE) as entries:
            for entry in entries:
                refuse_link(root / STATE / entry.name)


def refuse_link(path: Path) -> None:
    """Return unless `path` is a symbolic link.

    Raises:
        FatalError: it is; what it leads to is no part of the archive.
    """
    if path.is_symlink():
        raise FatalError(
            f"{printable(str(path))} is a symbolic link, which leads out of the archive: "
            "put what it leads to in its place, or mount it there"
        )
