"""What lies under keys in a directory, for whoever only looks."""

import os
from collections.abc import Sequence
from pathlib import Path

from anyio import to_thread

from bulkfetch.keys import KeyPath, key_path
from bulkfetch.models import ObjectMeta
from bulkfetch.stores.local.directories import Directories
from bulkfetch.stores.local.errors import Destination, local_errors


class LocalHeads:
    """`head` of a directory that is neither opened as a store nor changed. Where there is none, nothing is there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._destination = Destination(str(root))

    async def head(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """See `interfaces.Store.head`."""
        with local_errors(self._destination):
            return await to_thread.run_sync(self._head, keys)

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
