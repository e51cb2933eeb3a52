"""The error for an input that does not have the column it was asked for."""

import difflib
from collections.abc import Iterable

from bulkfetch.errors import UsageError
from bulkfetch.sources.column_names import DEFAULT_COLUMNS
from bulkfetch.sources.files.lines import unreadable
from bulkfetch.text import printable


def no_such_column(source: str, column: str, names: Iterable[str], *, header: int = 0) -> UsageError:
    """The error for an input without `column`, or without any that holds the ID where that is "", with what it has
    instead. `header` is the line whose columns these are, if it is one."""
    present = [name for name in names if name]
    listed = printable(", ".join(present) or "none", 200)
    where = f"line {header} is taken for the header: " if header else ""
    above = "; if that line is no header, remove what stands above the header" if header else ""
    if not column:
        return unreadable(
            source,
            f"{where}no column is called {' or '.join(DEFAULT_COLUMNS)}; add --column with one of: {listed}{above}",
        )
    near = difflib.get_close_matches(column, present, n=1)
    hint = f"; did you mean {printable(near[0], 80)!r}?" if near else "."
    return unreadable(source, f"{where}no column is called {printable(column, 80)!r}{hint} There are: {listed}{above}")
