"""How names are really spelt on a disk that is blind to case: it answers to each spelling, and keeps the first."""

import os
import unicodedata
from collections import OrderedDict
from threading import Lock

from bulkfetch.keys import KeyPath, fold
from bulkfetch.stores.local.directories import DIRECTORY_MODE, Directories

_LISTINGS = 16
"""Directories whose names are kept; a further one takes the place of that which was not asked for the longest."""

_Listing = dict[str, set[str]]


class Spellings:
    """Reads how names are spelt, each directory once; for any thread.

    The names are given in NFC, whatever form the disk gives them: keys are in NFC, and a disk that is blind to case
    answers to every form.
    """

    def __init__(self) -> None:
        self._listings: OrderedDict[KeyPath, _Listing] = OrderedDict()
        self._lock = Lock()

    def make_folder(self, path: KeyPath, directories: Directories) -> KeyPath:
        """The folder that the disk takes `path` for, as it is spelt there. What is missing is created.

        Raises:
            OSError: as `Directories.make`.
        """
        with self._lock:
            real: KeyPath = ()
            for name in path:
                real = (*real, self._made(real, name, directories))
            return real

    def find(self, path: KeyPath, directories: Directories) -> KeyPath:
        """What the disk takes `path` for, as it is spelt there; `path` itself as far as there is nothing."""
        with self._lock:
            real: KeyPath = ()
            for name in path:
                try:
                    above = directories.find(real)
                except (FileNotFoundError, NotADirectoryError):
                    return (*real, *path[len(real) :])
                listing = self._listing(real)
                if fold(name) not in listing:
                    listing = self._read(real, above)
                real = (*real, _spelt(name, listing))
            return real

    def _made(self, above: KeyPath, name: str, directories: Directories) -> str:
        listing = self._listing(above)
        if fold(name) not in listing:
            fd = directories.make(above)
            try:
                os.mkdir(name, DIRECTORY_MODE, dir_fd=fd)
            except FileExistsError:
                listing = self._read(above, fd)
            else:
                listing.setdefault(fold(name), set()).add(name)
        return _spelt(name, listing)

    def _listing(self, folder: KeyPath) -> _Listing:
        """What is known of `folder`, perhaps nothing yet."""
        listing = self._listings.setdefault(folder, {})
        self._listings.move_to_end(folder)
        if len(self._listings) > _LISTINGS:
            self._listings.popitem(last=False)
        return listing

    def _read(self, folder: KeyPath, fd: int) -> _Listing:
        listing: _Listing = {}
        # On btrfs a descriptor lists only what was in the directory when it was opened.
        now = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            with os.scandir(now) as entries:
                for entry in entries:
                    name = unicodedata.normalize("NFC", entry.name)
                    listing.setdefault(fold(name), set()).add(name)
        finally:
            os.close(now)
        self._listings[folder] = listing
        return listing


def _spelt(name: str, listing: _Listing) -> str:
    """What `listing` has for `name`; a disk that folds less than `fold` may have several, `name` among them."""
    there = listing.get(fold(name), {name})
    return name if name in there else min(there)
