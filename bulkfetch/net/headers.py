"""What stands in HTTP header fields: the times in Retry-After and Date, and codings."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER = 3600.0
"""Seconds. A server that asks for more has a quota in mind, not a pause: the run stops and says when to come back."""

_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})

_LONGEST = 1e9  # seconds; whatever is longer is as good as never
_DELAY_SECONDS = re.compile(r"[0-9]+", re.ASCII)


def parse_retry_after(value: str | None, *, date: str | None, now: datetime) -> float | None:
    """The seconds to wait by a `Retry-After` field (RFC 9110, 10.2.3), 0 or more; None if it is absent or invalid.

    An HTTP date is taken as its distance from the response's own `date`, so that a wrong local clock does no harm;
    `now` serves where the response has none.
    """
    if value is None:
        return None
    if _DELAY_SECONDS.fullmatch(value.strip()):
        return min(float(value), _LONGEST)
    until = parse_http_date(value)
    if until is None:
        return None
    sent = parse_http_date(date) if date is not None else None
    return max(0.0, (until - (sent or now)).total_seconds())


def parse_http_date(value: str) -> datetime | None:
    """An HTTP date in any of its three forms (RFC 9110, 5.6.7), in UTC; None if it is none of them."""
    if not value.isascii() or not re.match(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", value.strip()):
        return None
    try:
        moment = parsedate_to_datetime(value)
        # The asctime form carries no zone and is parsed naive; HTTP dates are always in UTC.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def names_coding(content_encoding: Iterable[str]) -> bool:
    """Whether one of the `Content-Encoding` fields names a coding. Senders also write there what is none (`none`,
    `UTF-8`, `aws-chunked` of a body that was stored plain): such a label says nothing about the bytes."""
    return any(label.strip().lower() in _CODINGS for field in content_encoding for label in field.split(","))
