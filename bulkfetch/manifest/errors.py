"""What SQLite's errors mean for a run: mapped here, once."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from bulkfetch.durable import explain
from bulkfetch.errors import FatalError

_SYSTEM_CODES = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
_PRIMARY_CODE = 0xFF


@contextmanager
def sqlite_errors(label: str) -> Iterator[None]:
    """Within this block a sqlite3.Error becomes a FatalError "{label} cannot be used: …"."""
    try:
        yield
    except sqlite3.Error as error:
        code = _SYSTEM_CODES.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE)
        text = explain(OSError(code, "")) if code else str(error)
        raise FatalError(f"{label} cannot be used: {text}") from error
