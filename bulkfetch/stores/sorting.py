"""A listing of any length in the order of its keys, in flat memory: not every disk or bucket lists so."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from bulkfetch.models import ObjectMeta

_AT_ONCE = 1000
_CACHE_KIB = 16 * 1024
_BEFORE = "surrogateescape"  # names on a disk need not be UTF-8


class SortedListing:
    """Objects by key, in a temporary file. Blocks; not for two threads at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        """An empty one; its file is gone at the end of the block.

        Raises (each of its methods as well):
            sqlite3.Error: the disk failed.
        """
        connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute("CREATE TABLE found (key BLOB NOT NULL, size INTEGER)")
            yield cls(connection)
        finally:
            connection.close()

    def fill_anew(self, objects: Callable[[], Iterable[ObjectMeta]]) -> None:
        """Take in `objects`, in place of what was there."""
        self._connection.execute("BEGIN")
        with self._connection:
            self._connection.execute("DELETE FROM found")
            rows = ((found.key.encode("utf-8", _BEFORE), found.size) for found in objects())
            self._connection.executemany("INSERT INTO found VALUES (?, ?)", rows)

    def __iter__(self) -> Iterator[ObjectMeta]:
        """The objects in the order of their keys' bytes, as SQLite and S3 sort text."""
        found = self._connection.execute("SELECT key, size FROM found ORDER BY key")
        while page := found.fetchmany(_AT_ONCE):
            for key, size in page:
                yield ObjectMeta(key.decode("utf-8", _BEFORE), size)
