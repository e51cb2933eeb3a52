"""JSON Lines: an object or a string a line."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from bulkfetch.errors import Reason, UsageError
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import NO_FIELDS, Delivery, InputRow
from bulkfetch.sources.column_names import DEFAULT_COLUMNS, find_column
from bulkfetch.sources.files.columns import no_such_column
from bulkfetch.sources.files.damage import Damage
from bulkfetch.sources.files.lines import LINE_CAP, TOO_LONG, rejected, unreadable
from bulkfetch.sources.json_text import fields_of, has_twice, id_text, parse_json
from bulkfetch.text import printable

_BLANKS = b" \t\r"
_ESCAPED = re.compile(r"[\udc80-\udcff]")


class JsonlParser:
    """The invoice ID is the string itself, or the object's member `column` (else as `find_column` finds it), a string
    or a whole number.

    The other members become `fields`, numbers and truth values as they are written; null, arrays and objects are left
    out. Blanks within a string count.
    """

    def __init__(self, name: str, column: str, damage: Damage) -> None:
        self.not_rows = Counter[str]()
        self._name = name
        self._column = column
        self._damage = damage
        self._begun = False
        self._line = 0

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        rows: list[InputRow] = []
        start = self._line + 1
        self._line += len(lines)
        for number, line in enumerate(lines, start):
            if len(line) > LINE_CAP:
                rows.append(rejected(line, Reason.INVALID_ROW, TOO_LONG, number))
            elif line.strip(_BLANKS):
                rows.append(self._row(line, number, lines))
                self._begun = True
            else:
                self.not_rows["blank"] += 1
        self._damage.handed_out |= bool(rows)
        return rows

    def finish(self, unended: Sequence[bytes] = ()) -> list[InputRow]:
        return self.parse(list(unended))

    def _row(self, line: bytes, number: int, lines: Sequence[bytes]) -> InputRow:
        damage, readable = "", line
        try:
            line.decode()
        except UnicodeDecodeError as error:
            damage = self._damage.problem(error, lines, number)
            readable = _escaped(line)
        if not self._begun:
            self._refuse_document(line, number)
        try:
            value = parse_json(readable)
        except ValueError as error:
            return rejected(line, Reason.INVALID_ROW, damage or f"not JSON that can be read: {error}", number)
        fields, cell = NO_FIELDS, "the invoice ID"
        if isinstance(value, dict):
            column = find_column(value, self._column)
            if column is None:
                return self._without_column(value, line, number)
            cell = f"member {printable(column, 80)}"
            if has_twice(readable, column):
                return rejected(line, Reason.INVALID_ROW, f"{cell} is there twice; leave one out", number)
            fields = fields_of(value, column)
            value = value[column]
        elif not isinstance(value, str):
            value = None
        invoice_id = id_text(value)
        if invoice_id is None:
            problem = f"{cell} is neither a string nor a whole number; write the invoice ID as a string"
            return rejected(line, Reason.INVALID_ROW, problem, number)
        if wrong := check_invoice_id(invoice_id):
            return rejected(invoice_id, Reason.INVALID_ID, f"{cell}: {damage or wrong}", number)
        return Delivery(invoice_id, number, fields)

    def _refuse_document(self, line: bytes, number: int) -> None:
        """Refuse a single JSON document over many lines, or an array: it would be rejected line by line."""
        text = line.strip(_BLANKS)
        if text.startswith(b"[") or text == b"{":
            kind, path = ("a JSON array", ".[]") if text != b"{" else ("one JSON document over several lines", ".")
            raise self._document(number, kind, path)

    def _document(self, number: int, kind: str, path: str) -> UsageError:
        return unreadable(
            self._name,
            f"line {number} begins {kind}, and JSON Lines has one object a line; make them with jq -c '{path}'",
        )

    def _without_column(self, members: Mapping[str, object], line: bytes, number: int) -> InputRow:
        if not self._begun:
            if self._column:
                raise no_such_column(self._name, self._column, members)
            for name, value in members.items():
                if isinstance(value, list) and value and isinstance(value[0], dict):
                    raise self._document(number, f"a page with a list under {printable(name, 80)}", f".{name}[]")
        wanted = (self._column,) if self._column else DEFAULT_COLUMNS
        return rejected(
            line,
            Reason.INVALID_ROW,
            f"the object has no member {printable(' or '.join(wanted), 80)}; add it, or name another with --column",
            number,
        )


def _escaped(line: bytes) -> bytes:
    """`line` as UTF-8 that reads the same, but for the bytes that are none: these read as \\xff, say."""
    text = line.decode("utf-8", "surrogateescape")
    return _ESCAPED.sub(lambda match: f"\\\\x{ord(match[0]) - 0xDC00:02x}", text).encode("utf-8", "backslashreplace")
