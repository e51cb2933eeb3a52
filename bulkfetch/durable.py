"""The file-system steps that survive a power loss, and what the system's errors say to whoever meets them."""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bulkfetch.errors import FatalError
from bulkfetch.text import printable

_FIXES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; raise it and run the same command again",
    errno.EROFS: "the file system is read-only; mount it writable and run the same command again",
    errno.EACCES: "permission denied; let this user read and write it, or choose another destination",
    errno.EPERM: "operation not permitted; the file system must allow this user hard links and changes of mode",
    errno.ENOTDIR: "it, or something on its way, is not a directory; choose another destination",
    errno.EXDEV: "part of it is another file system; keep the whole archive, .bulkfetch included, on one",
    errno.EIO: "input/output error; check the disk (see dmesg)",
}


def explain(error: OSError) -> str:
    """What is wrong, and what mends it where that is known: safe to show, without the path."""
    return _FIXES.get(error.errno or 0) or printable(error.strerror or type(error).__name__)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Within this block an OSError becomes a FatalError "cannot {doing}: …", with its fix."""
    try:
        yield
    except OSError as error:
        raise FatalError(f"cannot {printable(doing)}: {explain(error)}") from error


def write_all(fd: int, data: bytes | memoryview | mmap.mmap) -> None:
    """Write all of `data`, however short the single writes are."""
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            written = os.write(fd, rest[done:])
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            done += written


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int) -> None:
    """Create `path` and what is missing above it, durably; a directory that exists is left as it is.

    Raises:
        NotADirectoryError: `path`, or something above it, is a file.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, 0o777)
    try:
        path.mkdir(mode=mode, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
    sync_directory(path.parent)


def write_file(path: Path, data: bytes | mmap.mmap) -> None:
    """Put `data` into the file `path`, in place of what it held. The bytes are durable on return, a new name is not."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes | mmap.mmap, *, temporary: Path) -> None:
    """Put `data` durably under `path`, at once or not at all; `temporary` is on the same file system."""
    write_file(temporary, data)
    temporary.replace(path)
    sync_directory(path.parent)
