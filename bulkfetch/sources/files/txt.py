"""Plain lists: one invoice ID a line, `#` for comments."""

import re
from collections import Counter
from collections.abc import Sequence

from bulkfetch.errors import Reason
from bulkfetch.models import NO_FIELDS, Delivery, InputRow
from bulkfetch.sources.column_names import find_column
from bulkfetch.sources.files.cells import check_cell, id_in
from bulkfetch.sources.files.lines import LINE_CAP, TOO_LONG, not_utf8, rejected, unreadable

_BLANKS = b" \t\r"
_DELIMITERS = (b",", b";", b"\t")
# What nearly every line is; the rest may take its time.
_is_plain = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,199}").fullmatch


class TextParser:
    """Space and quotes around an ID, blank lines and lines that begin with `#` are ignored.

    With `wary_of_csv`, a first line that looks like a table is a `UsageError` instead of a row.
    """

    def __init__(self, name: str, *, wary_of_csv: bool) -> None:
        self.not_rows = Counter[str]()
        self._name = name
        self._wary = wary_of_csv
        self._line = 0

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        rows: list[InputRow] = []
        start = self._line + 1
        self._line += len(lines)
        if self._wary:
            self._beware(lines, start)
        for number, line in enumerate(lines, start):
            text = line.strip(_BLANKS)
            if _is_plain(text):
                rows.append(Delivery(text.decode("ascii"), number, NO_FIELDS))
            elif len(line) > LINE_CAP:
                rows.append(rejected(line, Reason.INVALID_ROW, TOO_LONG, number))
            elif (row := self._unusual(text, number)) is not None:
                rows.append(row)
        return rows

    def finish(self, unended: Sequence[bytes] = ()) -> list[InputRow]:
        return self.parse(list(unended))

    def _beware(self, lines: Sequence[bytes], start: int) -> None:
        """Refuse a list whose first line that says anything belongs to a table."""
        for number, line in enumerate(lines, start):
            text = line.strip(_BLANKS)
            if not text or text.startswith(b"#"):
                continue
            if _is_of_table(text):
                raise unreadable(
                    self._name,
                    f"line {number} looks like a table, not an invoice ID; name the file .csv, or add --format csv "
                    "and --column NAME (--format txt takes it for an ID)",
                )
            if text.startswith((b'{"', b'["', b"[{")):
                raise unreadable(
                    self._name,
                    f"line {number} looks like JSON, not an invoice ID; name the file .jsonl, or add --format jsonl",
                )
            self._wary = False
            return

    def _unusual(self, line: bytes, number: int) -> InputRow | None:
        if line.startswith(b"#"):
            self.not_rows["comment"] += 1
            return None
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            return rejected(line, Reason.INVALID_ID, not_utf8(error), number)
        if not text:
            self.not_rows["blank"] += 1
            return None
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        invoice_id = id_in(text)
        problem = check_cell(invoice_id)
        return (
            rejected(text, Reason.INVALID_ID, problem, number) if problem else Delivery(invoice_id, number, NO_FIELDS)
        )


def _is_of_table(text: bytes) -> bool:
    named = find_column([text.decode("utf-8", "replace")], "") is not None
    parted = any(sum(map(bool, map(bytes.strip, text.split(mark)))) > 1 for mark in _DELIMITERS)
    # One | may well be part of an ID.
    return named or parted or text.count(b"|") > 1 or text.lower().startswith(b"sep=")
