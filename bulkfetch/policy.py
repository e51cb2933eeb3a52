"""Rules as pure functions and small counters: how long to wait, when to give a run up."""

import re
from collections import Counter
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

from bulkfetch.errors import FatalError, Reason

MAX_RETRY_AFTER = 3600.0
"""Seconds. A server that asks for more means a quota, not a pause: the run stops and says when to come back."""

CANARY_OUTCOMES = 20
CANARY_IN_FLIGHT = 4
RATIO_MIN_FINISHED = 200

_DELAY_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


def parse_retry_after(value: str | None, *, date: str | None, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` field (RFC 9110, 10.2.3), never negative; None if it is absent or invalid.

    An HTTP date is taken as its distance from the response's own `date`, so that a wrong local clock does no harm;
    `now` serves where the response has none.
    """
    if value is None:
        return None
    if _DELAY_SECONDS.fullmatch(value.strip()):
        return float(value)
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


def backoff(charged: int, *, initial: float, ceiling: float, rng: Random) -> float:
    """Seconds before the next try after `charged` failures: full jitter over initial, 2x, 4x … up to `ceiling`."""
    # 2.0**1024 overflows; the ceiling is reached long before.
    return rng.uniform(0.0, min(ceiling, initial * 2.0 ** min(charged - 1, 60)))


class RunGuard:
    """Watches outcomes and stops a run that cannot be right.

    Canary: while nothing has ever succeeded and the first outcomes all failed for one reason, the base URL, tenant or
    token is wrong, and a million failures would only hide it. Ratio: most of what was asked for fails.
    """

    def __init__(self, *, max_failed_ratio: float) -> None:
        self._max_failed_ratio = max_failed_ratio
        self._finished = 0
        self._failures: Counter[Reason] = Counter()
        self.proven = False
        """Whether anything was ever stored in this archive: then single failures are the invoices' own."""

    def succeeded(self) -> None:
        """Count an invoice that is in the archive, now or before."""
        self._finished += 1
        self.proven = True

    def failed(self, reason: Reason) -> None:
        """Count an invoice that was given up.

        Raises:
            FatalError: the run should stop here.
        """
        self._finished += 1
        self._failures[reason] += 1
        failures = self._failures.total()
        if not self.proven and failures >= CANARY_OUTCOMES and len(self._failures) == 1:
            raise FatalError(
                f"the first {failures} invoices all failed with {reason}: check api.url, the token's organisation, "
                "the key template and the input, for it looks as if none of them can succeed"
            )
        if self._finished >= RATIO_MIN_FINISHED and failures > self._max_failed_ratio * self._finished:
            raise FatalError(
                f"{failures} of {self._finished} invoices failed, more than limits.max_failed_ratio "
                f"({self._max_failed_ratio:g}) allows"
            )
