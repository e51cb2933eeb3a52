"""Directories reached from a root's descriptor, so that no planted symlink leads out of the archive (CWE-59)."""

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from bulkfetch.keys import KeyPath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK the open of a planted FIFO would wait for its writer for ever.
_OBJECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
DIRECTORY_MODE = 0o750


class Directories:
    """Directories below `root_fd`, each opened once and all closed on exit. Not safe for use by two threads."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._fds: dict[KeyPath, int] = {(): root_fd}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path, fd in self._fds.items():
            if path:
                with suppress(OSError):
                    os.close(fd)

    def find(self, path: KeyPath) -> int:
        """A descriptor of the directory at `path`, valid until exit.

        Raises:
            OSError: there is none (`FileNotFoundError`), or a component is no directory (`NotADirectoryError`).
        """
        if path not in self._fds:
            self._fds[path] = os.open(path[-1], _DIRECTORY, dir_fd=self.find(path[:-1]))
        return self._fds[path]

    def make(self, path: KeyPath, mode: int = DIRECTORY_MODE) -> int:
        """As `find`, and what is missing on the way is created."""
        with suppress(FileNotFoundError):
            return self.find(path)
        above = self.make(path[:-1], mode)
        with suppress(FileExistsError):
            os.mkdir(path[-1], mode, dir_fd=above)
        return self.find(path)

    def open_object(self, path: KeyPath) -> int:
        """A descriptor, to be closed by the caller, of the object at `path`.

        Raises:
            FileNotFoundError: there is none; anything but a regular file, a symlink included, counts as none.
        """
        try:
            fd = os.open(path[-1], _OBJECT, dir_fd=self.find(path[:-1]))
        except OSError as error:
            if _absent(error):
                raise FileNotFoundError(error.errno, "no such object", "/".join(path)) from None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError("/".join(path))
        return fd

    def sizes(self, parent: KeyPath, names: Sequence[str]) -> list[int | None]:
        """The sizes in bytes of the objects `names` in the directory `parent`; None where `open_object` would find
        none."""
        try:
            fd = self.find(parent)
        except OSError as error:
            if _absent(error):
                return [None] * len(names)
            raise
        return [_size(name, fd) for name in names]

    def sync(self) -> dict[KeyPath, OSError]:
        """Make the entries of all opened directories durable; the ones that failed, with their errors.

        Ancestors were opened on the way and are among them: a run that died may have made them and not synced.
        """
        failed: dict[KeyPath, OSError] = {}
        for path, fd in self._fds.items():
            try:
                os.fsync(fd)
            except OSError as error:
                failed[path] = error
        return failed


def _absent(error: OSError) -> bool:
    return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}


def _size(name: str, directory: int) -> int | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if _absent(error):
            return None
        raise
    return status.st_size if stat.S_ISREG(status.st_mode) else None
