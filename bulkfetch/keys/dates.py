"""Dates in a key: how an input writes them, and which parts of them a key can have."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from functools import lru_cache

from bulkfetch.errors import UsageError
from bulkfetch.text import printable

CODES: Mapping[str, Callable[[date], str]] = {
    "%Y": lambda day: f"{day.year:04}",
    "%y": lambda day: f"{day.year % 100:02}",
    "%m": lambda day: f"{day.month:02}",
    "%d": lambda day: f"{day.day:02}",
    "%j": lambda day: f"{day.timetuple().tm_yday:03}",
    "%G": lambda day: f"{day.isocalendar().year:04}",
    "%V": lambda day: f"{day.isocalendar().week:02}",
}
"""strftime's codes that a key may have, each with what it makes of a date: digits only, so that no key depends on a
language or a time zone."""

_TIME = r"(?:[T ]\d\d?(?::?\d\d){0,2}(?:[.,]\d+)?(?: ?(?:Z|UTC|[+-]\d\d(?::?\d\d)?))?)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})(-?)(\d\d)\2(\d\d){_TIME}", re.ASCII)
_DAY_FIRST = re.compile(rf"(\d\d?)\.(\d\d?)\.(\d{{4}}){_TIME}", re.ASCII)
_AMBIGUOUS = re.compile(rf"\d\d?([./-])\d\d?\1(?:\d\d|\d{{4}}){_TIME}", re.ASCII)
_SETTING = "[source] date_format"
_SAMPLE = date(2001, 2, 23)


def check_date_format(date_format: str, codes: Iterable[str]) -> None:
    """Let `date_format` pass if it is one of strptime's that tells what `codes` need of a date, or "".

    Raises:
        UsageError: it is not.
    """
    if not date_format:
        return
    shown = f"{_SETTING} {printable(date_format, 80)!r}"
    try:
        read = datetime.strptime(_SAMPLE.strftime(date_format), date_format).date()  # noqa: DTZ007 - a day has no zone
    except ValueError as error:
        raise UsageError(
            f'{shown}: {printable(str(error), 120)}; it takes the codes of strptime, such as "%d/%m/%Y"'
        ) from None
    for code in codes:
        if CODES[code](read) != CODES[code](_SAMPLE):
            raise UsageError(f'{shown}: does not tell the {code} that the key needs; write it such as "%d/%m/%Y"')


@lru_cache(maxsize=4096)
def read_date(text: str, date_format: str = "") -> date:
    """The day that `text` names, as it is written there: neither its time nor its time zone moves it.

    Args:
        date_format: as for strptime; "" takes what can be read in one way only, which is 2024-12-31, 20241231 (both
            also with a time behind them) and 31.12.2024.

    Raises:
        ValueError: it names none; the text says what is wrong with it and the fix, to follow upon `text`.
    """
    given = text.strip()
    if date_format:
        try:
            return datetime.strptime(given, date_format).date()  # noqa: DTZ007 - a day has no zone
        except ValueError:
            raise ValueError(
                f"is no date of the form {printable(date_format, 40)!r} ({_SETTING}); mend the row or the setting"
            ) from None
    if found := _YEAR_FIRST.fullmatch(given):
        year, month, day = found.group(1, 3, 4)
    elif found := _DAY_FIRST.fullmatch(given):
        day, month, year = found.groups()
    elif _AMBIGUOUS.fullmatch(given):
        raise ValueError(
            f'can be read as more than one date; say with {_SETTING} how dates are written, such as "%d/%m/%Y"'
        )
    else:
        raise ValueError(
            "is no date such as 2024-12-31, 20241231 or 31.12.2024; "
            f"mend the row, or say with {_SETTING} how dates are written"
        )
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        raise ValueError("is no day of the calendar; mend the row") from None
