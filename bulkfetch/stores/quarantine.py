"""What must not be archived is kept aside for a person to look at: the same bytes once, and no more than so many."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from bulkfetch.durable import explain
from bulkfetch.text import printable

QUARANTINE = "quarantine"
"""The directory's name."""

LIMIT = 1024**3


class Quarantine:
    """Decides what is kept in `place`, by whatever thread. A file's name there is the SHA-256 of its bytes, which the
    row of the invoice has, too. So the same bytes are kept once, whatever invoices they came for and however often.

    Nothing here may fail a run: what cannot be kept is told, and that is all.

    Args:
        place: the directory, for messages.
        limit: bytes that all files in it may have together.
        tell: told once in a run, in any thread, why something is not kept.
    """

    def __init__(self, place: Path, *, limit: int = LIMIT, tell: Callable[[str], None] = lambda _: None) -> None:
        self.place = place
        self._limit = limit
        self._tell = tell
        self._lock = Lock()
        self._total: int | None = None  # as found at first, and what this run has added
        self._told = False

    def admits(self, directory: int, sha256: str, size: int) -> bool:
        """Whether `size` bytes with that SHA-256 are in `directory`, the descriptor of `place`, or have room there and
        are to be put there now.

        Raises:
            OSError: the directory cannot be read.
        """
        with self._lock:
            if self._total is None:
                self._total = _total(directory)
            if _exists(sha256, directory):
                return True
            if self._total + size <= self._limit:
                self._total += size
                return True
        self._once(
            "the quarantine is full (limits.quarantine), so what else is refused is not kept: look through "
            f"{self.place}, and remove it"
        )
        return False

    @contextmanager
    def no_harm(self) -> Iterator[None]:
        """Within this block an OSError is told and goes no further."""
        try:
            yield
        except OSError as error:
            self._once(f"what must not be archived cannot be kept in {self.place}: {explain(error)}")

    def _once(self, message: str) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            self._tell(printable(message))


def _total(directory: int) -> int:
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
