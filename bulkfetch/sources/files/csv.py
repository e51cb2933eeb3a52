"""CSV with a header: the invoice ID in one column, the others as the row's fields."""

import csv
from collections.abc import Iterator

from bulkfetch.errors import Reason
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import Delivery, InputRow
from bulkfetch.sources.files.columns import find_column, no_such_column
from bulkfetch.sources.files.lines import LINE_CAP, TOO_LONG, not_utf8, rejected, unreadable
from bulkfetch.text import printable

_RECORD_CAP = LINE_CAP
_DELIMITERS = ",;\t"
_BLANKS = " \t\r"
_UNCLOSED = f"a quoted field is not closed within {_RECORD_CAP} bytes, or before the input ends"


class TableParser:
    """A row may span lines where a field is quoted; it counts under its first line. Blank lines are skipped, and blanks
    around an ID ignored; every other cell is taken as it is.

    A quote that is not closed costs its own line only: the lines that it swallowed are read again, each as a row.
    """

    def __init__(self, name: str, column: str) -> None:
        self._name = name
        self._column = column
        self._delimiter = ""
        self._width = 0
        self._id_at = 0
        self._others: list[tuple[int, str]] = []
        self._pending: list[bytes] = []
        self._line = 0

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        lines = self._pending + lines
        rows = self._read(lines, self._line + 1, last=False)
        self._line += len(lines) - len(self._pending)
        return rows

    def finish(self) -> list[InputRow]:
        return self._read(self._pending, self._line + 1, last=True)

    def _read(self, lines: list[bytes], number: int, *, last: bool) -> list[InputRow]:
        """The rows of `lines`, whose first is line `number`. A row that is unfinished at the end is kept for the next
        call, unless these are the `last` lines."""
        self._pending = []
        rows: list[InputRow] = []
        feed = _Feed(lines)
        if not self._delimiter and feed.skip_blank():
            self._delimiter = _delimiter(lines[feed.at].decode("utf-8", "replace"))
        reader = csv.reader(feed, delimiter=self._delimiter or ",", strict=True)
        while feed.skip_blank():
            try:
                cells = next(reader)
            except (_Unfinished, csv.Error) as error:
                if isinstance(error, _Unfinished) and not last and feed.size <= _RECORD_CAP:
                    self._pending = lines[feed.start :]
                    break
                rows += self._broken(lines[feed.start : feed.at], number + feed.start, feed.problem or str(error))
                continue
            if self._width:
                rows.append(self._row(cells, lines[feed.start], number + feed.start, feed.problem))
            else:
                self._begin(cells, feed.problem)
        return rows

    def _row(self, cells: list[str], raw: bytes, number: int, problem: str) -> InputRow:
        if not problem and len(cells) != self._width:
            problem = f"the row has {len(cells)} columns, the header {self._width}"
        if problem:
            return rejected(raw, Reason.INVALID_ROW, problem, number)
        invoice_id = cells[self._id_at].strip(_BLANKS)
        if wrong := check_invoice_id(invoice_id):
            return rejected(raw, Reason.INVALID_ID, wrong, number)
        return Delivery(invoice_id, number, {name: cells[at] for at, name in self._others})

    def _broken(self, lines: list[bytes], number: int, problem: str) -> list[InputRow]:
        if not self._width:
            raise unreadable(self._name, f"the header in line {number} cannot be read: {problem}")
        rows: list[InputRow] = [rejected(lines[0], Reason.INVALID_ROW, problem, number)]
        for at, line in enumerate(lines[1:], number + 1):
            rows += self._read([line], at, last=True)
        return rows

    def _begin(self, header: list[str], problem: str) -> None:
        names = [name.strip(_BLANKS) for name in header]
        named = [name for name in names if name]
        if twice := {name for name in named if named.count(name) > 1}:
            problem = f"more than one column is called {printable(min(twice), 80)!r}"
        if problem:
            raise unreadable(self._name, f"the header cannot be read: {problem}")
        column = find_column(names, self._column)
        if column is None and not self._column and len(names) == 1:
            column = names[0]
            if any(map(str.isdigit, column)):
                # Taking the first ID of a list without header for its header would lose an invoice in silence.
                raise unreadable(
                    self._name,
                    f"the header {printable(column, 80)!r} looks like an invoice ID; "
                    "add a first line 'id', or --format txt",
                )
        if column is None:
            raise no_such_column(self._name, self._column, names)
        self._width = len(names)
        self._id_at = names.index(column)
        self._others = [(at, name) for at, name in enumerate(names) if name and name != column]


class _Unfinished(Exception):
    """A row wants a line more than there is, or than it may have."""


class _Feed(Iterator[str]):
    """Feeds lines to `csv.reader`, which asks for another line only while a row is not complete. So this class knows
    where a row begins (`start`), where the next line is (`at`), and what is wrong with a row's text (`problem`)."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self.at = 0
        self.start = 0
        self.size = 0
        self.problem = ""

    def skip_blank(self) -> bool:
        """Begin a row at the next line that is not blank; False if there is none."""
        while self.at < len(self._lines):
            if self._lines[self.at].strip(b" \t\r"):
                self.start = self.at
                self.size = 0
                self.problem = ""
                return True
            self.at += 1
        return False

    def __next__(self) -> str:
        if self.at == len(self._lines) or self.size > _RECORD_CAP:
            raise _Unfinished(_UNCLOSED)
        line = self._lines[self.at]
        self.at += 1
        self.size += len(line) + 1
        if len(line) > LINE_CAP:
            self.problem = TOO_LONG
            return "\n"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            self.problem = not_utf8(error)
            text = line.decode("utf-8", "replace")
        if "\0" in text:
            self.problem = "the row holds a NUL (U+0000)"
        return text + "\n"


def _delimiter(header: str) -> str:
    return max(_DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
