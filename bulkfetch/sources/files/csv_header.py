"""The header of a table: which line it is, what parts its cells, and which of them is the invoice ID's."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bulkfetch.errors import UsageError
from bulkfetch.sources.column_names import find_column, plain_name
from bulkfetch.sources.files.columns import no_such_column
from bulkfetch.sources.files.csv_feed import RECORD_CAP, Feed, Unfinished
from bulkfetch.sources.files.lines import not_utf8, unreadable
from bulkfetch.text import printable

DELIMITERS = ",;\t|"

_NAMED = re.compile(r'"?sep=(.)\1*"?', re.IGNORECASE)
_RULER = re.compile(r"[\s|+]*[-=]{3,}[-=|+\s]*")


@dataclass(frozen=True, slots=True)
class Header:
    """A table's columns.

    Attributes:
        line: the header's line.
        names: of all columns; "" for one without a name.
        id_at: the column of the ID.
        others: place and name of the columns that become fields; of two that have one name, the later one is called
            `name (2)`.
        guessed: whether the only column was taken, whatever its name.
        certain: matches a row up to its ID, group 1, if all its cells so far are well quoted.
    """

    line: int
    delimiter: str
    names: Sequence[str]
    id_at: int
    others: Sequence[tuple[int, str]]
    guessed: bool
    certain: re.Pattern[str]

    @property
    def id_name(self) -> str:
        """The name of the ID's column."""
        return self.names[self.id_at]

    def repeated_by(self, cells: Sequence[str]) -> bool:
        """Whether a row is this header once more."""
        return _ended([plain_name(cell) for cell in cells]) == _ended(self.names)

    def label(self, at: int) -> str:
        """How a row's cell at `at` is called in a message."""
        name = self.names[at] if at < len(self.names) else ""
        return f"column {printable(name, 80)}" if name else f"cell {at + 1}"


def named_delimiter(line: str) -> str:
    """What a line such as `sep=;`, which Excel heeds, says to be the delimiter; "" if the line is none."""
    found = _NAMED.fullmatch(line.strip(" \r"))
    return found[1] if found else ""


def is_ruler(line: str) -> bool:
    """Whether `line` is drawn between the rows of a list, as in `|----|----|`."""
    return _RULER.fullmatch(line) is not None


class HeaderReader:
    """Finds the header of the input `name`, behind blank lines, comments, rulers and `sep=;`, which count as
    `not_rows`.

    The delimiter is the one that gives a column for the ID, and the most columns.
    """

    def __init__(self, name: str, column: str, needed: Sequence[str], not_rows: Counter[str]) -> None:
        self._name = name
        self._column = column
        self._needed = needed
        self._not_rows = not_rows
        self._delimiters = DELIMITERS

    def read(self, feed: Feed, number: int, *, last: bool) -> Header | None:
        """The header, if it ends within the lines of `feed`, whose first is line `number`; None if not, with
        `feed.start` where to look again. After the `last` lines nothing more comes.

        Raises:
            UsageError: it cannot be used.
        """
        while feed.at < len(feed.lines):
            feed.begin()
            text = feed.lines[feed.at].decode("utf-8", "replace")
            if kind := self._no_header(text):
                self._not_rows[kind] += 1
                feed.at += 1
                continue
            cells = self._cells(feed, number + feed.at, last=last)
            if cells is None:
                return None
            names = [plain_name(cell) for cell in cells[1]]
            if text.startswith("#") and find_column(names, self._column) is None:
                self._not_rows["comment"] += 1
                continue
            return self._header(cells[0], names, number + feed.start)
        feed.begin()
        return None

    def _no_header(self, text: str) -> str:
        if not text.strip():
            return "blank"
        if delimiter := named_delimiter(text):
            self._delimiters = delimiter
            return "header"
        return "ghost" if is_ruler(text) else ""

    def _cells(self, feed: Feed, number: int, *, last: bool) -> tuple[str, list[str]] | None:
        """The delimiter and the cells; None if the lines are not enough."""
        problem, found = "", list[tuple[tuple[bool, int], str, list[str]]]()
        for delimiter in self._delimiters:
            feed.again()
            try:
                cells = next(csv.reader(feed, delimiter=delimiter, strict=True))
            except Unfinished as error:
                if not last and feed.size <= RECORD_CAP:
                    feed.again()
                    return None
                problem = problem or str(error)
            except csv.Error as error:
                problem = problem or str(error)
            else:
                column = find_column(map(plain_name, cells), self._column)
                found.append(((column is not None, len(cells)), delimiter, cells))
        if feed.damage:
            problem, found = not_utf8(feed.damage), []
        if problem:
            # A delimiter that parts nothing hides what is wrong.
            found = [candidate for candidate in found if candidate[0] > (False, 1)]
        if not found or feed.problem:
            raise unreadable(self._name, f"the header in line {number} cannot be read: {feed.problem or problem}")
        _, delimiter, cells = max(found, key=lambda candidate: candidate[0])
        feed.again()
        next(csv.reader(feed, delimiter=delimiter, strict=True))
        return delimiter, cells

    def _header(self, delimiter: str, names: Sequence[str], line: int) -> Header:
        column = find_column(names, self._column)
        guessed = column is None and not self._column and len(names) == 1
        if guessed:
            column = names[0]
            if any(map(str.isdigit, column)):
                # Taking the first ID of a list without header for its header would lose an invoice in silence.
                raise unreadable(
                    self._name,
                    f"the header {printable(column, 80)!r} in line {line} looks like an invoice ID; "
                    "add a first line 'id', or --format txt",
                )
        if column is None:
            raise no_such_column(self._name, plain_name(self._column), names, header=line)
        for asked in (column, *self._needed):
            if names.count(asked) > 1:
                raise self._ambiguous(asked, line)
        id_at = names.index(column)
        others = [(at, name) for at, name in enumerate(_told_apart(names)) if name and at != id_at]
        return Header(line, delimiter, names, id_at, others, guessed, _up_to_id(delimiter, id_at))

    def _ambiguous(self, column: str, line: int) -> UsageError:
        return unreadable(
            self._name,
            f"the header in line {line} cannot be used: more than one column is called {printable(column, 80)!r}; "
            "rename all but the one that is meant",
        )


def _told_apart(names: Sequence[str]) -> Sequence[str]:
    seen, apart = Counter[str](), list[str]()
    for name in names:
        seen[name] += 1
        apart.append(f"{name} ({seen[name]})" if name and seen[name] > 1 else name)
    return apart


def _up_to_id(delimiter: str, id_at: int) -> re.Pattern[str]:
    mark = re.escape(delimiter)
    cell = rf'(?:"(?:[^"]|"")*"|[^"{mark}]*)'
    return re.compile(rf"(?:{cell}{mark}){{{id_at}}}({cell})(?:{mark}|$)")


def _ended(names: Sequence[str]) -> Sequence[str]:
    """`names` without the empty ones at the end."""
    count = len(names)
    while count and not names[count - 1]:
        count -= 1
    return names[:count]
