"""What stands between two slashes of a template: texts, and places for values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bulkfetch.errors import PermanentError, Reason
from bulkfetch.keys import names
from bulkfetch.keys.dates import CODES, read_date
from bulkfetch.text import printable


@dataclass(frozen=True, slots=True)
class Value:
    """Stands for the invoice ID, or for the input's column `column`; `cut` is the slice to take of it."""

    column: str | None
    cut: slice | None = None

    def of(self, invoice_id: str, fields: Mapping[str, str]) -> str:
        """The value in a row.

        Raises:
            PermanentError: `invalid_row`, the row has none.
        """
        value = invoice_id if self.column is None else _field(fields, self.column)
        return value if self.cut is None else value[self.cut]


@dataclass(frozen=True, slots=True)
class DatePart:
    """Stands for the part `code` of the date in the input's column `column`."""

    column: str
    code: str
    date_format: str

    def of(self, _: str, fields: Mapping[str, str]) -> str:
        """The value in a row.

        Raises:
            PermanentError: `invalid_row`, the row has none, or it is no date; the message names the fix.
        """
        text = _field(fields, self.column)
        try:
            return CODES[self.code](read_date(text, self.date_format))
        except ValueError as error:
            raise PermanentError(
                Reason.INVALID_ROW,
                f"column {printable(self.column, 80)!r} holds {printable(text, 40)!r}, which {error}",
            ) from None


Place = Value | DatePart
WHOLE_ID = Value(None)


@dataclass(frozen=True, slots=True)
class Segment:
    """What stands between two slashes of a template; `form` is for `str.format`, with `{}` at each of `places`."""

    form: str
    places: tuple[Place, ...]

    @property
    def fixed(self) -> str:
        """What is the same in every key."""
        return self.form.format(*[""] * len(self.places))

    @property
    def least(self) -> int:
        """Bytes the segment needs at the least."""
        return len(self.fixed.encode()) + (names.SPARE + names.WIDEST * len(self.places) if self.places else 0)

    def name(self, values: Sequence[str], limit: int) -> str:
        """The segment with `values`, harmless on every disk; `names.SPARE` of its `limit` bytes are left free."""
        written = [names.escape(value) for value in values]
        room = limit - names.SPARE - len(self.fixed.encode())
        if len("".join(written).encode()) > room:
            written = [names.shorten(value, room // len(values)) for value in values]
        return names.guard(self.form.format(*written))


def _field(fields: Mapping[str, str], column: str) -> str:
    value = fields.get(column)
    if not value:
        raise PermanentError(
            Reason.INVALID_ROW, f"the key needs the field {printable(column, 80)!r}, and the row has none"
        )
    return value
