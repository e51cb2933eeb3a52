"""Which column of a table, or member of an object, holds the invoice ID."""

import difflib
from collections.abc import Iterable

from bulkfetch.errors import UsageError
from bulkfetch.sources.files.lines import unreadable
from bulkfetch.text import printable

DEFAULT_COLUMNS = ("id", "invoice_id")


def find_column(names: Iterable[str], column: str) -> str | None:
    """Which of `names` it is: `column` if one was asked for, else the first default there is."""
    present = set(names)
    wanted = (column,) if column else DEFAULT_COLUMNS
    return next((name for name in wanted if name in present), None)


def no_such_column(source: str, column: str, names: Iterable[str]) -> UsageError:
    """The error for an input without the column, with what it has instead."""
    present = [name for name in names if name]
    listed = printable(", ".join(present) or "none", 200)
    if not column:
        return unreadable(
            source, f"no column is called {' or '.join(DEFAULT_COLUMNS)}; add --column with one of: {listed}"
        )
    near = difflib.get_close_matches(column, present, n=1)
    hint = f"; did you mean {printable(near[0], 80)!r}?" if near else "."
    return unreadable(source, f"no column is called {printable(column, 80)!r}{hint} There are: {listed}")
