"""What lies under keys in a directory, for whoever only looks."""

import os
from collections.abc import Sequence
from pathlib import Path

from anyio import to_thread

from bulkfetch.keys import KeyPath, key_path
from bulkfetch.models import ObjectMeta
from bulkfetch.pdf import PdfCheck
from bulkfetch.stores.local.directories import Directories
from bulkfetch.stores.local.errors import Destination, local_errors
from bulkfetch.stores.local.spellings import Spellings
from bulkfetch.stores.local.tree import BLOCK


class LocalHeads:
    """`head` of a directory that is neither opened as a store nor changed. Where there is none, nothing is there.

    `blind` says that the disk takes names for one that differ only in case.
    """

    def __init__(self, root: Path, *, blind: bool = False) -> None:
        self._root = root
        self._destination = Destination(str(root))
        self._spellings = Spellings() if blind else None

    async def head(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """See `interfaces.Store.head`."""
        with local_errors(self._destination):
            return await to_thread.run_sync(self._head, keys)

    async def whole(self, keys: Sequence[str]) -> Sequence[bool]:
        """Whether a whole PDF is under each of `keys`, which `interfaces.Store.adopt` would take over. Reads them."""
        with local_errors(self._destination):
            return await to_thread.run_sync(self._whole, keys)

    async def spelt(self, keys: Sequence[str]) -> Sequence[str]:
        """Each of `keys` as it is spelt on the disk; as it is given where there is nothing, or the disk tells spellings
        apart."""
        with local_errors(self._destination):
            return await to_thread.run_sync(self._spelt, keys)

    def _spelt(self, keys: Sequence[str]) -> Sequence[str]:
        if self._spellings is None:
            return keys
        root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with Directories(root_fd) as directories:
                return ["/".join(self._spellings.find(key_path(key), directories)) for key in keys]
        finally:
            os.close(root_fd)

    def _whole(self, keys: Sequence[str]) -> Sequence[bool]:
        root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return [self._is_whole(root_fd, key_path(key)) for key in keys]
        finally:
            os.close(root_fd)

    def _is_whole(self, root_fd: int, path: KeyPath) -> bool:
        check = PdfCheck()
        with Directories(root_fd) as directories:
            if self._spellings is not None and self._spellings.find(path, directories)[-1] != path[-1]:
                return False
            try:
                fd = directories.open_object(path)
            except FileNotFoundError:
                return False
            with os.fdopen(fd, "rb", buffering=0) as file:
                while chunk := file.read(BLOCK):
                    check.take(chunk)
        return check.flaw() is None

    def _head(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        try:
            root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return [None] * len(keys)
        try:
            return heads(root_fd, keys)
        finally:
            os.close(root_fd)


def heads(root_fd: int, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
    """What is under each of `keys` below `root_fd`, in their order; only regular files, reached through no symlink.

    The keys are taken directory by directory: each is opened once, and few are open at a time.

    Raises:
        OSError: a directory cannot be read.
        PermanentError: one of `keys` can be no key.
    """
    directories: dict[KeyPath, list[tuple[int, str]]] = {}
    for index, key in enumerate(keys):
        path = key_path(key)
        directories.setdefault(path[:-1], []).append((index, path[-1]))
    found: list[ObjectMeta | None] = [None] * len(keys)
    for path, objects in directories.items():
        with Directories(root_fd) as opened:
            sizes = opened.sizes(path, [name for _, name in objects])
        for (index, _), size in zip(objects, sizes, strict=True):
            if size is not None:
                found[index] = ObjectMeta(keys[index], size)
    return found
