"""The one retry loop: which errors are tried again, how often, and how long to wait in between."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TypeVar

import anyio
import tenacity

from bulkfetch.errors import BadBody, InvoiceError, TransientError

T = TypeVar("T")

_NOT_BEGUN = datetime.min.replace(tzinfo=UTC)


def backoff(charged: int, *, initial: float, ceiling: float, rng: Random) -> float:
    """Seconds before the next try after `charged` failures: full jitter over initial, 2x, 4x … up to `ceiling`."""
    # 2.0**1024 overflows; the ceiling is reached long before.
    return rng.uniform(0.0, min(ceiling, initial * 2.0 ** min(charged - 1, 60)))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` charged tries; waits in seconds; `timeout` is seconds for all tries of one invoice, 0 = none."""

    attempts: int
    wait_initial: float
    wait_max: float
    timeout: float


@dataclass(slots=True)
class Effort:
    """What one invoice has cost so far, over both passes. Lives in one task at a time."""

    started_at: datetime = _NOT_BEGUN
    started: float = 0.0
    attempts: int = 0
    links: int = 0
    charged: int = 0
    suspect: str | None = None
    put_before: dict[str, int] = field(default_factory=dict)
    """What was put for this invoice, SHA-256 → size: an answer may have been lost, and the next body may differ."""
    met: dict[type[InvoiceError], int] = field(default_factory=dict)

    def begin(self, utc_now: datetime, now: float) -> None:
        """Start a pass: with the full allowance, and with the account of the pass before."""
        if not self.attempts:
            self.started_at = utc_now
        self.started = now
        self.charged = 0
        self.met.clear()

    def failed(self, error: TransientError) -> None:
        """Charge a failed try."""
        self.charged += error.charged
        self.met[type(error)] = self.met.get(type(error), 0) + 1
        if isinstance(error, BadBody):
            self.suspect = error.sha256

    def used_up(self, error: TransientError, policy: RetryPolicy, now: float) -> bool:
        """Whether `error` was the last that this pass allows."""
        return (
            self.charged >= policy.attempts
            or (error.tries is not None and self.met[type(error)] >= error.tries)
            or (policy.timeout > 0 and now - self.started >= policy.timeout)
        )


def retrying(
    effort: Effort, policy: RetryPolicy, *, rng: Random, before_wait: Callable[[TransientError, float], None]
) -> tenacity.AsyncRetrying:
    """A loop that calls until success; the last error goes through unchanged.

    Only a TransientError is tried again. Waiting for an origin is the gate's business, so an uncharged failure goes
    straight back to it; a charged one waits with full jitter.
    """

    def error_of(state: tenacity.RetryCallState) -> TransientError:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, TransientError)  # noqa: S101 - the retry predicate lets nothing else come here
        return error

    def wait(state: tenacity.RetryCallState) -> float:
        if not error_of(state).charged:
            return 0.0
        return backoff(effort.charged, initial=policy.wait_initial, ceiling=policy.wait_max, rng=rng)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        after=lambda state: effort.failed(error_of(state)),
        stop=lambda state: effort.used_up(error_of(state), policy, anyio.current_time()),
        wait=wait,
        before_sleep=lambda state: before_wait(error_of(state), state.upcoming_sleep),
        sleep=anyio.sleep,
        reraise=True,
    )


def persistent(call: Callable[[], T], seconds: float, hurry: threading.Event) -> T:
    """What `call` returns, tried for `seconds`, in a thread: for what the whole run hangs on, such as its manifest.
    Once `hurry` is set nothing is waited for: the try under way is the last, or the one that was waited for.

    Raises:
        TransientError: the last one, when patience is at an end. Any other error goes through at once.
    """
    loop = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_delay(seconds) | tenacity.stop_when_event_set(hurry),
        sleep=tenacity.sleep_using_event(hurry),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10.0),
        reraise=True,
    )
    return loop(call)


async def persisting(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """The same as `persistent` on the event loop."""
    loop = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10.0),
        sleep=anyio.sleep,
        reraise=True,
    )
    return await loop(call)
