"""Plain lists: one invoice ID a line, `#` for comments."""

import re

from bulkfetch.errors import Reason
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import NO_FIELDS, Delivery, InputRow
from bulkfetch.sources.files.lines import LINE_CAP, TOO_LONG, not_utf8, rejected, unreadable

_BLANKS = b" \t\r"
_DELIMITERS = (b",", b";", b"\t")
# What nearly every line is; the rest may take its time.
_is_plain = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,199}").fullmatch


class TextParser:
    """Blanks around an ID, blank lines and lines that begin with `#` are ignored.

    With `wary_of_csv`, a first line that looks like a table is a `UsageError` instead of a row.
    """

    def __init__(self, name: str, *, wary_of_csv: bool) -> None:
        self._name = name
        self._wary = wary_of_csv
        self._line = 0

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        rows: list[InputRow] = []
        start = self._line + 1
        self._line += len(lines)
        for number, line in enumerate(lines, start):
            text = line.strip(_BLANKS)
            if _is_plain(text):
                rows.append(Delivery(text.decode("ascii"), number, NO_FIELDS))
                self._wary = False
            elif len(line) > LINE_CAP:
                rows.append(rejected(line, Reason.INVALID_ROW, TOO_LONG, number))
            elif text and not text.startswith(b"#"):
                rows.append(self._unusual(text, number))
        return rows

    def finish(self) -> list[InputRow]:
        return []

    def _unusual(self, line: bytes, number: int) -> InputRow:
        if self._wary and any(sum(map(bool, map(bytes.strip, line.split(mark)))) > 1 for mark in _DELIMITERS):
            raise unreadable(
                self._name,
                f"line {number} looks like a table, not an invoice ID; name the file .csv, or add --format csv "
                "and --column NAME",
            )
        self._wary = False
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            return rejected(line, Reason.INVALID_ID, not_utf8(error), number)
        problem = check_invoice_id(text)
        return rejected(text, Reason.INVALID_ID, problem, number) if problem else Delivery(text, number, NO_FIELDS)
