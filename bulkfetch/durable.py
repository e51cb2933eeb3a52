"""The few file-system steps that survive a power loss, and how their failure ends a run."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bulkfetch.errors import FatalError
from bulkfetch.text import safe


@contextmanager
def fatal_if_it_fails(doing: str) -> Iterator[None]:
    """Within this block an OSError becomes a FatalError "cannot {doing}: …"."""
    try:
        yield
    except OSError as error:
        raise FatalError(f"cannot {safe(doing)}: {os.strerror(error.errno or errno.EIO)}") from error


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however short the single writes are."""
    rest = memoryview(data)
    while rest:
        written = os.write(fd, rest)
        if written == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest = rest[written:]


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int) -> None:
    """Create `path` and what is missing above it, durably; an existing directory is left as it is."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, 0o777)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes, *, temporary: Path) -> None:
    """Put `data` durably under `path`, at once or not at all; `temporary` is on the same file system."""
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_directory(path.parent)
