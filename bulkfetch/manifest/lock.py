"""One run at a time on one archive."""

import fcntl
import os
from pathlib import Path
from typing import Self

import msgspec

from bulkfetch.errors import ArchiveLocked
from bulkfetch.manifest.durable import fatal_if_it_fails, write_all
from bulkfetch.text import safe

_HOLDER_BYTES = 4096


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds an archive; `started_at` is UTC ISO 8601."""

    pid: int
    host: str
    started_at: str
    run: str

    def __str__(self) -> str:
        return f"run {safe(self.run)}, process {self.pid} on {safe(self.host)}, since {safe(self.started_at)}"


class ArchiveLock:
    """An archive held for this process alone, until `close` or the process's end, whatever ends it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Hold the lock file `path`, without waiting.

        Raises:
            ArchiveLocked: another process holds it; the message says who, as far as that one has said so.
            FatalError: the file cannot be locked here.
        """
        with fatal_if_it_fails(f"lock {path}"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
            except BlockingIOError as error:
                holder = _read_holder(fd)
                os.close(fd)
                raise ArchiveLocked(f"another run holds this archive ({holder or 'not yet known which'})") from error
            except OSError:
                os.close(fd)
                raise
        return cls(fd)

    def sign(self, holder: Holder) -> None:
        """Say who holds the archive, for whoever comes second."""
        with fatal_if_it_fails("write the archive's lock"):
            write_all(self._fd, msgspec.json.encode(holder))

    def close(self) -> None:
        """Let the archive go."""
        os.close(self._fd)


def _read_holder(fd: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(fd, _HOLDER_BYTES, 0), type=Holder)
    except ValueError:
        return None
