"""JSON Lines: an object or a string a line."""

from collections.abc import Iterable

import msgspec

from bulkfetch.errors import Reason
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import NO_FIELDS, Delivery, InputRow
from bulkfetch.sources.files.columns import DEFAULT_COLUMNS, find_column, no_such_column
from bulkfetch.sources.files.lines import LINE_CAP, TOO_LONG, not_utf8, rejected
from bulkfetch.text import printable

_BLANKS = b" \t\r"


class JsonlParser:
    """The invoice ID is the string itself, or the object's member `column` (else `id`, else `invoice_id`), a string or
    a whole number.

    The other members become `fields`, numbers and truth values as JSON writes them; null, arrays and objects are left
    out, as nothing a key could be made of. Blanks within a string count.
    """

    def __init__(self, name: str, column: str) -> None:
        self._name = name
        self._column = column
        self._found = False
        self._line = 0

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        rows: list[InputRow] = []
        start = self._line + 1
        self._line += len(lines)
        for number, line in enumerate(lines, start):
            if len(line) > LINE_CAP:
                rows.append(rejected(line, Reason.INVALID_ROW, TOO_LONG, number))
            elif line.strip(_BLANKS):
                rows.append(self._row(line, number))
        return rows

    def finish(self) -> list[InputRow]:
        return []

    def _row(self, line: bytes, number: int) -> InputRow:
        try:
            line.decode()
            value = msgspec.json.decode(line)
        except UnicodeDecodeError as error:
            return rejected(line, Reason.INVALID_ROW, not_utf8(error), number)
        except (msgspec.DecodeError, RecursionError) as error:
            return rejected(line, Reason.INVALID_ROW, f"not JSON that can be read: {error}", number)
        fields = NO_FIELDS
        if isinstance(value, dict):
            column = find_column(value, self._column)
            if column is None:
                return self._without_column(value, line, number)
            self._found = True
            fields = {name: _text(other) for name, other in value.items() if name != column and _is_scalar(other)}
            value = _text(value[column]) if type(value[column]) is int else value[column]
        if not isinstance(value, str):
            return rejected(line, Reason.INVALID_ROW, "the invoice ID is neither a string nor a whole number", number)
        problem = check_invoice_id(value)
        return rejected(value, Reason.INVALID_ID, problem, number) if problem else Delivery(value, number, fields)

    def _without_column(self, members: Iterable[str], line: bytes, number: int) -> InputRow:
        if self._column and not self._found:
            raise no_such_column(self._name, self._column, members)
        wanted = (self._column,) if self._column else DEFAULT_COLUMNS
        return rejected(
            line, Reason.INVALID_ROW, f"the object has no member {printable(' or '.join(wanted), 80)}", number
        )


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
