"""What SQLite's errors mean for a run: mapped here, once."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from bulkfetch.durable import explain
from bulkfetch.errors import FatalError

_SYSTEM_CODES = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
_PRIMARY_CODE = 0xFF
_CANNOT_OPEN = (
    "its file cannot be opened; check the disk (see dmesg), its permissions, and free some space if it is full"
)
"""SQLite keeps the system's own error to itself where it opens a file."""


@contextmanager
def sqlite_errors(label: str) -> Iterator[None]:
    """Within this block a sqlite3.Error becomes a FatalError "{label} cannot be used: …"."""
    try:
        yield
    except sqlite3.Error as error:
        raise FatalError(f"{label} cannot be used: {_explain(error)}") from error


def _explain(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code == sqlite3.SQLITE_CANTOPEN:
        return _CANNOT_OPEN
    return explain(OSError(_SYSTEM_CODES[code], "")) if code in _SYSTEM_CODES else str(error)
