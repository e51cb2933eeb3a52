"""The append-only file of one run's rows: how it grows, and how a torn end is cut off."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from bulkfetch.durable import disk_errors, replace_file, sync_directory, write_all
from bulkfetch.errors import FatalError
from bulkfetch.manifest.rows import decode_row

_TAIL_BYTES = 1 << 16


class RowFile:
    """A manifest file that this process, and no other, appends to.

    `size` (bytes) and `rows` tell what of it is durable.
    """

    def __init__(self, path: Path) -> None:
        """Create the file, which must not exist, durably."""
        self.path = path
        self.size = 0
        self.rows = 0
        self._hash = hashlib.sha256()
        self._closed = False
        self._failure: str | None = None
        with disk_errors(f"create the manifest {path}"):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
            try:
                os.fsync(self._fd)
                sync_directory(path.parent)
            except OSError:
                os.close(self._fd)
                raise

    def append(self, lines: bytes, rows: int) -> None:
        """Add `lines`, which hold `rows` whole rows; durable on return.

        Raises:
            FatalError: they could not be written. The file is back at its durable size as far as the disk allows, and
                takes nothing more.
        """
        self.raise_if_failed()
        try:
            with disk_errors(f"write the manifest {self.path}"):
                write_all(self._fd, lines)
                os.fdatasync(self._fd)
        except FatalError as error:
            # A second fsync may succeed without having written the pages that the first one lost: never ask again.
            self._failure = str(error)
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(lines)
        self.rows += rows
        self._hash.update(lines)

    def raise_if_failed(self) -> None:
        """Raise the FatalError that keeps this file from taking rows, if there is one."""
        if self._failure is not None:
            raise FatalError(self._failure)
        if self._closed:
            raise FatalError(f"the manifest {self.path.name} is closed")

    def sha256(self) -> str:
        """Lower-case hex of all durable bytes."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Take no more rows."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)


def whole_size(path: Path) -> int:
    """The length in bytes of the whole rows of a manifest. What follows is a torn line, which a run that died may have
    left.

    Raises:
        UsageError: a newer bulkfetch wrote the last row.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        end = _last_newline(fd, os.fstat(fd).st_size) + 1
        start = _last_newline(fd, end - 1) + 1
        if start < end:
            try:
                decode_row(os.pread(fd, end - start, start))
            except ValueError:
                return start
        return end
    finally:
        os.close(fd)


def _last_newline(fd: int, end: int) -> int:
    """The offset of the last newline before `end`; -1 if there is none."""
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found
        end = start
    return -1


def heal(path: Path, aside: Path) -> None:
    """Cut a torn end off a manifest that its run did not finish, and keep it as `aside`.

    Raises:
        FatalError: the file cannot be mended.
        UsageError: a newer bulkfetch wrote the last row.
    """
    with disk_errors(f"mend the manifest {path}"):
        end = whole_size(path)
        if end == path.stat().st_size:
            return
        with path.open("r+b") as file:
            file.seek(end)
            replace_file(aside, file.read(), temporary=aside.with_name(f"{aside.name}.part"))
            file.truncate(end)
            os.fsync(file.fileno())
