"""Dates as inputs write them."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import UsageError
from bulkfetch.keys.dates import CODES, check_date_format, read_date


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-01",
        "20240301",
        "01.03.2024",
        "1.3.2024",
        " 2024-03-01\t",
        "2024-03-01T23:30:00-08:00",
        "2024-03-01T00:30:00.123Z",
        "2024-03-01 00:00:00",
        "2024-03-01 00:00:00 UTC",
        "20240301T101500",
        "01.03.2024 00:00",
    ],
)
def test_what_can_be_read_in_one_way(text):
    """ISO 8601 and German dates are known by their shape; a time, or its zone, does not move the day."""
    assert read_date(text) == date(2024, 3, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("01/02/2024", "more than one date"),
        ("31/12/2024", "more than one date"),
        ("01-02-2024", "more than one date"),
        ("01.02.24", "more than one date"),
        ("1/2/24 10:00", "more than one date"),
        ("2024-13-01", "no day of the calendar"),
        ("2023-02-29", "no day of the calendar"),
        ("31.04.2024", "no day of the calendar"),
        ("01012024", "no day of the calendar"),
        ("0000-01-01", "no day of the calendar"),
        ("", "is no date"),
        ("45657", "is no date"),
        ("2024", "is no date"),
        ("2024-03", "is no date"),
        ("2024-03-01 2024-03-02", "is no date"),
        ("March 1, 2024", "is no date"),
        ("२०२४-०३-०१", "is no date"),
    ],
)
def test_what_cannot_be_read_is_said(text, said):
    """What could be two dates, or is none, is refused rather than guessed."""
    with pytest.raises(ValueError, match=said):
        read_date(text)


def test_a_given_format_is_the_only_one():
    """With a format nothing is guessed, not even what would be clear without it."""
    assert read_date("01/02/2024", "%d/%m/%Y") == date(2024, 2, 1)
    with pytest.raises(ValueError, match="form '%d/%m/%Y'"):
        read_date("2024-02-01", "%d/%m/%Y")


@pytest.mark.parametrize("date_format", ["", "%d/%m/%Y", "%m/%d/%y", "%d. %B %Y %H:%M", "%G-W%V-%u", "%Y%j"])
def test_formats_that_tell_the_day(date_format):
    """Every format of strptime that holds a whole date will do."""
    check_date_format(date_format, CODES)


@pytest.mark.parametrize(
    ("date_format", "codes", "said"),
    [
        ("%Q", ["%Y"], "'%Q': 'Q' is a bad directive.*codes of strptime"),
        ("%d/%m/%", ["%Y"], "codes of strptime"),
        ("%m/%Y", ["%Y", "%d"], "does not tell the %d"),
        ("dd.mm.yyyy", ["%Y"], "does not tell the %Y"),
    ],
)
def test_formats_that_cannot_be_used_are_refused(date_format, codes, said):
    """The error names the setting, what is wrong with it, and an example."""
    with pytest.raises(UsageError, match=said) as caught:
        check_date_format(date_format, codes)
    assert "[source] date_format" in str(caught.value)


def test_a_format_needs_no_more_than_the_key():
    """A column of months will do for a key of years and months."""
    check_date_format("%m/%Y", ["%Y", "%m"])
    assert read_date("03/2024", "%m/%Y") == date(2024, 3, 1)


@given(st.dates(min_value=date(1000, 1, 1), max_value=date(9999, 12, 31) - timedelta(days=7)))
def test_codes_mean_what_strftime_means(day):
    """Each code gives what the standard library gives for it."""
    for code, part in CODES.items():
        assert part(day) == day.strftime(code)
