"""CSV with a header: the invoice ID in one column, the others as the row's fields."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence

from bulkfetch.errors import Reason
from bulkfetch.keys import is_plain_id
from bulkfetch.models import NO_FIELDS, Delivery, InputRow
from bulkfetch.sources.files.cells import check_cell, id_in
from bulkfetch.sources.files.csv_feed import RECORD_CAP, Feed, Unfinished
from bulkfetch.sources.files.csv_header import DELIMITERS, Header, HeaderReader, is_ruler, named_delimiter
from bulkfetch.sources.files.damage import Damage
from bulkfetch.sources.files.lines import LINE_CAP, rejected, unreadable
from bulkfetch.text import printable

MIXED_ENDS = (
    "a carriage return within the row, which may be the end of one: the table has line ends of two kinds; save it with "
    "one kind"
)

_EMPTY = frozenset({"", '""'})


class TableParser:
    """A row may span lines where a field is quoted; it counts under its first line. Blank lines are skipped, and space
    around an ID is ignored; every other cell is taken as it is.

    Only the ID's cell and the columns that are `needed` decide over a row. Last cells that were left out are empty, and
    surplus ones are ignored if they are. Where a later cell makes it uncertain which is which, the row has no fields.

    A quote that is not closed costs its own line only: the lines that it swallowed are read again, each as a row.
    """

    def __init__(self, name: str, column: str, damage: Damage, needed: Sequence[str] = ()) -> None:
        self.not_rows = Counter[str]()
        self._name = name
        self._damage = damage
        self._needed = frozenset(needed)
        self._head = HeaderReader(name, column, needed, self.not_rows)
        self._header: Header | None = None
        self._pending: list[bytes] = []
        self._line = 0
        self._unended = 0

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        lines = self._pending + lines
        rows = self._read(lines, self._line + 1, last=False)
        self._line += len(lines) - len(self._pending)
        self._damage.handed_out |= bool(rows)
        return rows

    def finish(self, unended: Sequence[bytes] = ()) -> list[InputRow]:
        lines = [*self._pending, *unended]
        self._unended = self._line + len(lines) if unended else 0
        return self._read(lines, self._line + 1, last=True)

    def _read(self, lines: list[bytes], number: int, *, last: bool) -> list[InputRow]:
        """The rows of `lines`, whose first is line `number`. A row that is unfinished at the end is kept for the next
        call, unless these are the `last` lines."""
        self._pending = []
        rows: list[InputRow] = []
        feed = Feed(lines)
        header = self._header
        if header is None:
            header = self._header = self._head.read(feed, number, last=last)
            if header is None:
                self._pending = lines[feed.start :]
                return rows
        reader = csv.reader(feed, delimiter=header.delimiter, strict=True)
        while feed.at < len(lines):
            line = lines[feed.at]
            if b'"' not in line and len(line) <= LINE_CAP:
                # What nearly every line is; then cells are what stands between delimiters.
                row = self._plain(header, line, number + feed.at, lines)
                feed.at += 1
            else:
                feed.begin()
                try:
                    row = self._quoted(header, next(reader), feed, number)
                except Unfinished as error:
                    if not last and feed.size <= RECORD_CAP:
                        self._pending = lines[feed.start :]
                        break
                    rows += self._broken(lines[feed.start : feed.at], number + feed.start, feed.problem or str(error))
                    continue
                except csv.Error as error:
                    read = lines[feed.start : feed.at]
                    row = self._misquoted(header, read, number + feed.start)
                    if row is None:
                        rows += self._broken(read, number + feed.start, feed.problem or str(error))
                        continue
            if row is not None:
                rows.append(row)
        return rows

    def _plain(self, header: Header, line: bytes, number: int, lines: Sequence[bytes]) -> InputRow | None:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            cells = line.decode("utf-8", "surrogateescape").rstrip("\r").split(header.delimiter)
            return self._damaged(header, cells, line, number, lines, error)
        text = text.rstrip("\r")
        if "\r" in text:
            return rejected(line, Reason.INVALID_ROW, MIXED_ENDS, number)
        return self._row(header, text.split(header.delimiter), line, number)

    def _quoted(self, header: Header, cells: list[str], feed: Feed, number: int) -> InputRow | None:
        line, at = feed.lines[feed.start], number + feed.start
        if feed.problem:
            return rejected(line, Reason.INVALID_ROW, feed.problem, at)
        if feed.damage:
            return self._damaged(header, cells, line, at, feed.lines, feed.damage)
        return self._row(header, cells, line, at)

    def _row(self, header: Header, cells: list[str], line: bytes, number: int) -> InputRow | None:
        if len(cells) == len(header.names):
            invoice_id = cells[header.id_at]
            if is_plain_id(invoice_id) and invoice_id != header.names[header.id_at]:
                return Delivery(invoice_id, number, {name: cells[at] for at, name in header.others})
        if kind := self._no_row(header, cells, line):
            self.not_rows[kind] += 1
            return None
        return self._unusual(header, cells, line, number)

    def _no_row(self, header: Header, cells: Sequence[str], line: bytes) -> str:
        """What a line is that is no row; "" for a row."""
        if all(cell.strip() in _EMPTY for cell in cells):
            return "ghost" if len(cells) > 1 else "blank"
        text = line.decode("utf-8", "replace")
        if header.repeated_by(cells) or named_delimiter(text):
            return "header"
        if line.lstrip(b" \t").startswith(b"#") and (header.id_at == 0 or len(cells) == 1):
            return "comment"
        return "ghost" if is_ruler(text) and len(header.names) > 1 and (len(cells) == 1 or all(cells[1:-1])) else ""

    def _unusual(self, header: Header, cells: list[str], line: bytes, number: int) -> InputRow:
        width, have = len(header.names), len(cells)
        if header.guessed and not self._damage.handed_out and any(mark in cells[0] for mark in DELIMITERS):
            raise unreadable(
                self._name,
                f"line {header.line}, {printable(header.id_name, 80)!r}, is taken for the header and has one column, "
                f"but line {number} has several; remove what stands above the header",
            )
        if have > width and any(cell.strip() for cell in cells[width:]):
            if header.id_at or self._needed:
                problem = f"the row has {have} cells, the header {width}: put the cell with a delimiter in it in quotes"
                return rejected(line, Reason.INVALID_ROW, problem, number)
            return self._delivery(header, cells[0], line, number, NO_FIELDS)
        if have <= header.id_at:
            problem = f"{header.label(header.id_at)}: the row ends before it, with {have} of {width} cells"
            return rejected(line, Reason.INVALID_ROW, problem, number)
        if number == self._unended and have < width and have == header.id_at + 1:
            problem = f"{header.label(header.id_at)}: the input ends in this cell; have the list written to its end"
            return rejected(line, Reason.INVALID_ROW, problem, number)
        cells += [""] * (width - have)
        return self._delivery(
            header, cells[header.id_at], line, number, {name: cells[at] for at, name in header.others}
        )

    def _delivery(self, header: Header, cell: str, line: bytes, number: int, fields: Mapping[str, str]) -> InputRow:
        invoice_id = id_in(cell)
        if len(header.names) == 1:
            invoice_id = invoice_id.rstrip(",;\t ")  # delimiters at the end of each row, though not of the header
        if wrong := check_cell(invoice_id):
            return rejected(line, Reason.INVALID_ID, f"{header.label(header.id_at)}: {wrong}", number)
        return Delivery(invoice_id, number, fields)

    def _damaged(
        self,
        header: Header,
        cells: list[str],
        line: bytes,
        number: int,
        lines: Sequence[bytes],
        error: UnicodeDecodeError,
    ) -> InputRow | None:
        """A row that is not UTF-8: as it is but for the damaged cells, if none of these is needed."""
        damaged = [at for at, cell in enumerate(cells) if not cell.isascii() and _shown(cell) != cell]
        needed = {header.id_at, *(at for at, name in header.others if name in self._needed)}
        worst = next((at for at in damaged if at in needed), damaged[0])
        problem = self._damage.problem(error, lines, number, header.label(worst))
        if worst in needed:
            reason = Reason.INVALID_ID if worst == header.id_at else Reason.INVALID_ROW
            return rejected(line, reason, f"{header.label(worst)}: {problem}", number)
        return self._row(header, [_shown(cell) for cell in cells], line, number)

    def _misquoted(self, header: Header, lines: Sequence[bytes], number: int) -> InputRow | None:
        """A row with quotes inside of a quoted cell, if they come after the ID's cell; None if nothing is certain."""
        if len(lines) > 1 or self._needed:
            return None
        text = lines[0].decode("utf-8", "replace").rstrip("\r")
        found = header.certain.match(text)
        try:
            cells = next(csv.reader([text], delimiter=header.delimiter), [])
        except csv.Error:
            return None
        if found is None or (header.id_at and len(cells) != len(header.names)):
            return None
        cell = "".join(next(csv.reader([found[1]], delimiter=header.delimiter), []))
        fields = {name: cells[at] for at, name in header.others} if len(cells) == len(header.names) else {}
        return self._delivery(header, cell, lines[0], number, fields)

    def _broken(self, lines: list[bytes], number: int, problem: str) -> list[InputRow]:
        rows: list[InputRow] = [rejected(lines[0], Reason.INVALID_ROW, problem, number)]
        for at, line in enumerate(lines[1:], number + 1):
            rows += self._read([line], at, last=True)
        return rows


def _shown(cell: str) -> str:
    """`cell` with the bytes that are not UTF-8 as \\xff, say."""
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
