"""Which column of a table, or member of an object, holds the invoice ID."""

import unicodedata
from collections.abc import Iterable

DEFAULT_COLUMNS = ("id", "invoice_id")

_FOLDED_DEFAULTS = ("id", "invoiceid")


def plain_name(name: str) -> str:
    """`name` as people read it: in NFC, without a BOM, and with one blank wherever there is space of any kind, such as
    the no-break space that spreadsheets and web pages leave behind."""
    return " ".join(unicodedata.normalize("NFC", name).replace("\ufeff", "").split())


def find_column(names: Iterable[str], column: str) -> str | None:
    """Which of `names` holds the ID: `column` if one was asked for, else `id`, else `invoice_id`, else the only name
    that differs from one of them in case and in marks alone, such as `Invoice-ID`. None if there is none."""
    present = set(names)
    if column:
        return column if column in present else None
    for name in DEFAULT_COLUMNS:
        if name in present:
            return name
    for folded in _FOLDED_DEFAULTS:
        alike = [name for name in present if _fold(name) == folded]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def _fold(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())
