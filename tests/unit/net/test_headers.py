"""Retry-After and HTTP dates in all their forms."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkfetch.net.headers import parse_http_date, parse_retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DATE = "Sun, 01 Mar 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7\t", 7.0),
        ("999999999", 999999999.0),
        ("99999999999999", 1e9),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("1_000", None),
        ("١٢", None),
        ("soon", None),
        ("", None),
        ("12, 13", None),
    ],
)
def test_retry_after_in_seconds(value, seconds):
    """Only one to nine ASCII digits are a number of seconds; whatever else is no time at all."""
    assert parse_retry_after(value, date=DATE, now=NOW) == seconds


@pytest.mark.parametrize(
    "value",
    ["Sun, 01 Mar 2026 10:01:30 GMT", "Sunday, 01-Mar-26 10:01:30 GMT", "Sun Mar  1 10:01:30 2026"],
    ids=["imf-fixdate", "rfc850", "asctime"],
)
def test_retry_after_date_counts_from_the_servers_own_clock(value):
    """A date in any of the three forms is a distance from the answer's Date, and from our clock only without one."""
    assert parse_retry_after(value, date=DATE, now=NOW) == 90.0
    assert parse_retry_after(value, date="nonsense", now=NOW - timedelta(hours=2)) == 90.0
    assert parse_retry_after(value, date=None, now=NOW) == 0.0, "a moment gone by is no negative wait"


@pytest.mark.parametrize(
    "value",
    [
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Sun, \u0660\u0661 Mar 2026 10:01:30 GMT",
        "Sun, 99 Mar 2026 10:01:30 GMT",
        "Sunday",
        "2026-03-01T10:01:30Z",
        "1 Mar 2026 10:01:30 GMT",
    ],
)
def test_what_is_no_http_date(value):
    """Dates out of range, in other digits or in other forms are ignored."""
    assert parse_http_date(value) is None


fields = st.one_of(
    st.text(max_size=40),
    st.integers().map(str),
    st.builds(
        "{}, {} {} {} {}:{}:{} {}".format,
        st.sampled_from(["Mon", "Sunday", "Fri"]),
        st.integers(-1, 40),
        st.sampled_from(["Jan", "Mar", "Foo", "12"]),
        st.integers(-1, 10**5),
        st.integers(-1, 25),
        st.integers(-1, 61),
        st.integers(-1, 61),
        st.sampled_from(["GMT", "-2359", "+9999", "-0000", "", "EST", "+\u0660\u0660"]),
    ),
)


@given(fields, st.none() | fields)
@example("Fri, 31 Dec 9999 23:59:59 -2359", None)
@example("Sun, 0 0 0 0:0:0 0", None)
def test_retry_after_never_raises(value, date):
    """Whatever a server writes, the answer is None or a wait that is not negative, nor longer than what is written."""
    seconds = parse_retry_after(value, date=date, now=NOW)
    assert seconds is None or seconds >= 0
    if seconds is not None and value.strip().isdigit():
        assert seconds == min(int(value), 1e9)
