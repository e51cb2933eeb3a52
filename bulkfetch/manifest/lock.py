"""Who may be at work on an archive: one run alone, or the workers of one queue together."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from bulkfetch.durable import disk_errors, write_all
from bulkfetch.errors import ArchiveLocked
from bulkfetch.text import printable

_HOLDER_BYTES = 4096
_SHARING_WAIT = 10.0  # seconds in which a worker that comes first sees to the archive alone
_SHARING_STEP = 0.05


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds an archive; `started_at` is UTC ISO 8601."""

    pid: int
    host: str
    started_at: str
    run: str

    def __str__(self) -> str:
        run, host, since = printable(self.run), printable(self.host), printable(self.started_at)
        return f"run {run}, process {self.pid} on {host}, since {since}"


class ArchiveLock:
    """Holds an archive until `close` or the end of the process, however that comes. `alone` says that no other process
    holds it.
    """

    def __init__(self, fd: int, *, alone: bool) -> None:
        self._fd = fd
        self.alone = alone

    @classmethod
    def acquire(cls, path: Path, *, shared: bool = False) -> Self:
        """Hold the lock file `path`, alone.

        With `shared` the lock is held together with others who share it, or alone if nobody else holds it. Another
        worker may be holding it alone while it begins, so this waits some seconds for it.

        Raises:
            ArchiveLocked: another process holds it; the message names that process if it has signed the lock.
            FatalError: the file cannot be locked here.
        """
        deadline = time.monotonic() + (_SHARING_WAIT if shared else 0.0)
        with disk_errors(f"lock {path}"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                while True:
                    if _locked(fd, fcntl.LOCK_EX):
                        os.ftruncate(fd, 0)
                        return cls(fd, alone=True)
                    if shared and _locked(fd, fcntl.LOCK_SH):
                        return cls(fd, alone=False)
                    if time.monotonic() >= deadline:
                        holder = _read_holder(fd)
                        raise ArchiveLocked(f"another run holds this archive ({holder or 'not yet known which'})")
                    time.sleep(_SHARING_STEP)
            except BaseException:
                os.close(fd)
                raise

    def share(self) -> None:
        """Go over from holding the lock alone to sharing it.

        Raises:
            ArchiveLocked: a run that wants the archive alone took the lock in between.
        """
        with disk_errors("share the archive's lock"):
            if not _locked(self._fd, fcntl.LOCK_SH):
                raise ArchiveLocked("another run has just taken this archive")
        self.alone = False

    def sign(self, holder: Holder) -> None:
        """Write down who holds the archive, for whoever finds it locked. Of several holders the last one is named."""
        with disk_errors("write the archive's lock"):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            write_all(self._fd, msgspec.json.encode(holder))

    def close(self) -> None:
        """Let the archive go."""
        os.close(self._fd)


@contextmanager
def taking_turns(path: Path) -> Iterator[None]:
    """Let one process at a time into this block, by the lock file `path`; the others wait for their turn.

    Raises:
        FatalError: the file cannot be locked here.
    """
    with disk_errors(f"lock {path}"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        with disk_errors(f"lock {path}"):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(fd: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(fd, _HOLDER_BYTES, 0), type=Holder)
    except ValueError:
        return None
