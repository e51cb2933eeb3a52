"""Reads an archive in a directory back. Nothing there is created, changed or followed out of it."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from anyio import to_thread

from bulkfetch.durable import explain
from bulkfetch.keys import KeyPath, key_path
from bulkfetch.models import ObjectMeta, ReadBack
from bulkfetch.stores.local.directories import Directories
from bulkfetch.stores.local.errors import Destination, local_errors
from bulkfetch.stores.local.heads import heads
from bulkfetch.text import printable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalReader:
    """Keeps the contract of `interfaces.Reader` for a directory."""

    at_once = 64

    def __init__(self, root_fd: int, destination: Destination) -> None:
        self._root_fd = root_fd
        self._destination = destination

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[Self]:
        """The archive in `root`.

        Raises:
            FatalError: it cannot be read.
        """
        destination = Destination(str(root))
        with local_errors(destination):
            root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield cls(root_fd, destination)
        finally:
            os.close(root_fd)

    def listing(self, ignored: Callable[[str], bool]) -> Iterator[ObjectMeta]:
        """See `interfaces.Reader.listing`. A symlink, or anything else that is no file, has the size -1."""
        with local_errors(self._destination):
            yield from self._walk(self._root_fd, "", ignored)

    async def sizes(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """See `interfaces.Reader.sizes`."""
        with local_errors(self._destination):
            return await to_thread.run_sync(heads, self._root_fd, keys)

    async def contents(self, keys: Sequence[str]) -> Sequence[ReadBack | None]:
        """See `interfaces.Reader.contents`. All of `keys` are read by one thread, past the system's cache."""
        with local_errors(self._destination):
            return await to_thread.run_sync(self._contents, keys)

    def _walk(self, fd: int, folder: str, ignored: Callable[[str], bool]) -> Iterator[ObjectMeta]:
        below = []
        with os.scandir(fd) as entries:
            for entry in entries:
                key = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if not ignored(f"{key}/"):
                        below.append(entry.name)
                elif not ignored(key):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # it has just gone
                    yield ObjectMeta(key, status.st_size if stat.S_ISREG(status.st_mode) else -1)
        for name in below:
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                continue
            try:
                yield from self._walk(inner, f"{folder}{name}/", ignored)
            finally:
                os.close(inner)

    def _contents(self, keys: Sequence[str]) -> Sequence[ReadBack | None]:
        with Directories(self._root_fd) as directories:
            return [_content(key_path(key), directories) for key in keys]


def _content(path: KeyPath, directories: Directories) -> ReadBack | None:
    try:
        fd = directories.open_object(path)
    except FileNotFoundError:
        return None
    try:
        with os.fdopen(fd, "rb", buffering=0) as file:
            # What the cache holds says nothing of the disk.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return ReadBack(file.tell(), digest)
    except OSError as error:
        # A disk that cannot read this one may read the others.
        return ReadBack(0, "", f"it cannot be read: {printable(explain(error))}")
