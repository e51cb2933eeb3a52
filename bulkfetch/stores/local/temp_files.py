"""Temporary files of one run: they never meet another run's, and those of dead runs are swept."""

import fcntl
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bulkfetch.durable import write_all
from bulkfetch.errors import FatalError

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMELESS = getattr(os, "O_TMPFILE", 0)
OBJECT_MODE = 0o640
_LOCK = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_IOV_MAX = 1024
_LOCK_TRIES = 8


@dataclass(slots=True)
class TempFile:
    """A temporary file. `fd` is -1 once the file is closed. A file that is not `visible` has no name on disk, and
    `name` is a label only. `ready` says that the file was created with the mode of objects."""

    name: str
    fd: int
    visible: bool
    ready: bool = False

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append all of `chunks`, and let the disk begin on them."""
        for start in range(0, len(chunks), _IOV_MAX):
            batch = chunks[start : start + _IOV_MAX]
            written = os.writev(self.fd, batch)
            if written < sum(map(len, batch)):
                write_all(self.fd, b"".join(batch)[written:])
        # On Linux this starts the write-back, so the fsync to come finds little left to wait for.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make the content durable. After an error the content is lost: a second fsync would lie."""
        os.fsync(self.fd)
        # Nobody reads it again soon: the cache is better used for what others need.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file; once more is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class TempFiles:
    """The temporary files of `run`, in the directory `fd`, which is owned from here on.

    Where the file system can, they have no name at all (Linux, O_TMPFILE): then a kill leaves nothing behind, and a
    file costs two system calls less. Else a lock on a file beside them says that the run lives: several runs may share
    one archive, so "not mine" is no proof of "dead".

    Raises:
        FatalError: this very run is at work here already.
    """

    def __init__(self, fd: int, run: str) -> None:
        self.fd = fd
        self._run = run
        self._numbers = itertools.count(1)
        self._nameless = bool(_NAMELESS)
        self._mode: int | None = None
        lock = _lock(fd, run)
        if lock is None:
            raise FatalError(f"run {run} is already at work on this archive")
        self._lock = lock

    def close(self) -> None:
        """Say that the run is over. Nothing stays open, even if the disk refuses to remove the lock file."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(_lock_name(self._run), dir_fd=self.fd)
        finally:
            os.close(self._lock)
            os.close(self.fd)

    def use_names(self) -> bool:
        """From here on give temporary files names; False if they have them already."""
        nameless, self._nameless = self._nameless, False
        return nameless

    def create(self) -> TempFile:
        """A new, empty file that nobody else can read."""
        name = f"{self._run}.{next(self._numbers)}.part"
        if self._nameless:
            # Nobody can open it before it is linked, so it may have its final mode at once.
            fd = os.open(".", _NAMELESS | os.O_WRONLY | os.O_CLOEXEC, OBJECT_MODE, dir_fd=self.fd)
            if self._mode is None:
                # The umask changes the mode of every file alike, so it is looked at once.
                self._mode = stat.S_IMODE(os.fstat(fd).st_mode)
            return TempFile(name, fd, visible=False, ready=self._mode == OBJECT_MODE)
        return TempFile(name, os.open(name, _CREATE, 0o600, dir_fd=self.fd), True)

    def link(self, temp: TempFile, name: str, directory: int) -> None:
        """Give `temp` a second name, in the directory with that descriptor; a name that is taken stays taken.

        Raises:
            FileExistsError: it is taken.
        """
        if temp.visible:
            os.link(temp.name, name, src_dir_fd=self.fd, dst_dir_fd=directory, follow_symlinks=False)
        else:
            # The way that open(2) gives for O_TMPFILE; by the descriptor itself it would need a capability.
            os.link(f"/proc/self/fd/{temp.fd}", name, dst_dir_fd=directory, follow_symlinks=True)

    def discard(self, temp: TempFile) -> None:
        """Close and remove `temp`. If the disk refuses to remove it, the next run's sweep does.

        An error of closing it says nothing: its bytes are durable already, or not wanted.
        """
        with suppress(OSError):
            temp.close()
        if temp.visible:
            with suppress(OSError):
                os.unlink(temp.name, dir_fd=self.fd)

    @contextmanager
    def dropping(self, temp: TempFile) -> Iterator[TempFile]:
        """Discard `temp` when the block ends, whatever happens."""
        try:
            yield temp
        finally:
            self.discard(temp)

    def sweep(self) -> None:
        """Remove what dead runs left behind, an earlier life of this run included."""
        left: dict[str, list[str]] = {}
        for name in self._names():
            left.setdefault(name.rsplit(".", 2 if name.endswith(".part") else 1)[0], []).append(name)
        self._remove(name for name in left.pop(self._run, ()) if name != _lock_name(self._run))
        for run, names in left.items():
            lock = _lock(self.fd, run)
            if lock is not None:
                self._remove({*names, _lock_name(run)})
                os.close(lock)

    def _names(self) -> list[str]:
        # On btrfs a descriptor lists only what was in the directory when it was opened.
        now = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            with os.scandir(now) as entries:
                return [entry.name for entry in entries]
        finally:
            os.close(now)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.fd)


def _lock_name(run: str) -> str:
    return f"{run}.lock"


def _lock(directory: int, run: str) -> int | None:
    """A descriptor that holds the lock of `run`; None while a living process holds it."""
    for _ in range(_LOCK_TRIES):
        fd = os.open(_lock_name(run), _LOCK, 0o600, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            os.close(fd)
            raise
        # A sweep may have removed the file between open and lock: then the lock is on nothing.
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)
    return None
