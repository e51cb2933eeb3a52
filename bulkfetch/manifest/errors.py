"""What SQLite's errors mean for a run: mapped here, once."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from bulkfetch.durable import explain
from bulkfetch.errors import FatalError

_MEANS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
_PRIMARY_CODE = 0xFF


@contextmanager
def sqlite_errors(place: str) -> Iterator[None]:
    """Within this block a sqlite3.Error becomes a FatalError "{place} cannot be used: …"."""
    try:
        yield
    except sqlite3.Error as error:
        meant = _MEANS.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE)
        text = explain(OSError(meant, "")) if meant else str(error)
        raise FatalError(f"{place} cannot be used: {text}") from error
