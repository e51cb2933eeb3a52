"""Every loop that tries again: which errors, how often, and how long to wait in between.

`retrying` is for an invoice, whose tries are counted. The others are for what a run hangs on: `persistent` (in a
thread) and `persisting` (on the event loop) for a call that may fail, `polling` for a state that nobody announces,
`contending` for compare-and-set.
"""

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
    """How long one invoice is tried. It gets at most `attempts` charged tries, within `timeout` seconds (0 = no bound).
    The waits in between grow from `wait_initial` up to `wait_max` seconds."""

    attempts: int
    wait_initial: float
    wait_max: float
    timeout: float


@dataclass(slots=True)
class Effort:
    """What one invoice has cost so far, over both passes. Only one task at a time may use it."""

    started_at: datetime = _NOT_BEGUN
    started: float = 0.0
    attempts: int = 0
    links: int = 0
    charged: int = 0
    last_bad_sha256: str | None = None
    held_sha256: str | None = None
    put_before: dict[str, int] = field(default_factory=dict)
    """Every body that was put for this invoice, SHA-256 → size: a put whose answer was lost may have succeeded."""
    failures_by_kind: dict[type[InvoiceError], int] = field(default_factory=dict)

    def begin(self, utc_now: datetime, now: float) -> None:
        """Start a pass: all tries are allowed again, while the costs of the pass before stay counted."""
        if not self.attempts:
            self.started_at = utc_now
        self.started = now
        self.charged = 0
        self.failures_by_kind.clear()

    def failed(self, error: TransientError) -> None:
        """Charge a failed try."""
        self.charged += error.charged
        self.failures_by_kind[type(error)] = self.failures_by_kind.get(type(error), 0) + 1
        if isinstance(error, BadBody):
            self.held_sha256 = error.refused.sha256 if error.hold else self.held_sha256
            # It is kept aside once, however often it comes.
            self.last_bad_sha256 = None if error.refused.sha256 == self.held_sha256 else error.refused.sha256

    def used_up(self, error: TransientError, policy: RetryPolicy, now: float) -> bool:
        """Whether this pass allows no further try after `error`."""
        return (
            self.charged >= policy.attempts
            or (error.tries is not None and self.failures_by_kind[type(error)] >= error.tries)
            or (policy.timeout > 0 and now - self.started >= policy.timeout)
        )


def retrying(
    effort: Effort, policy: RetryPolicy, *, rng: Random, before_wait: Callable[[TransientError, float], None]
) -> tenacity.AsyncRetrying:
    """A loop that calls until success, for the tries of one invoice; the last error goes through unchanged.

    Only a TransientError is tried again. A charged failure waits, with full jitter. An uncharged one does not: the gate
    of its origin says when the next request may start.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        if not _error_of(state).charged:
            return 0.0
        return backoff(effort.charged, initial=policy.wait_initial, ceiling=policy.wait_max, rng=rng)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        after=lambda state: effort.failed(_error_of(state)),
        stop=lambda state: effort.used_up(_error_of(state), policy, anyio.current_time()),
        wait=wait,
        before_sleep=lambda state: before_wait(_error_of(state), state.upcoming_sleep),
        sleep=anyio.sleep,
        reraise=True,
    )


def persistent(call: Callable[[], T], seconds: float, give_up: threading.Event) -> T:
    """What `call` returns, tried for `seconds`, in a thread: for what the whole run hangs on, such as its manifest.

    Once `give_up` is set there is no more waiting: a try under way is the last one, and a wait under way ends at once
    with one last try.

    Raises:
        TransientError: the last one, after `seconds` or `give_up`. Any other error goes through at once.
    """
    loop = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_delay(seconds) | tenacity.stop_when_event_set(give_up),
        sleep=tenacity.sleep_using_event(give_up),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10.0),
        reraise=True,
    )
    return loop(call)


async def persisting(
    call: Callable[[], Awaitable[T]],
    seconds: float,
    *,
    attempts: int | None = None,
    pause: float | None = None,
    on_failure: Callable[[TransientError], None] | None = None,
) -> T:
    """The same as `persistent` on the event loop, without `give_up`, and for `attempts` tries at the most.

    It waits for `pause` seconds between two tries; if none are given, for a random time that grows up to ten seconds.
    `on_failure` is told of every TransientError.
    """
    growing = tenacity.wait_random_exponential(multiplier=0.2, max=10.0)
    loop = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        after=lambda state: on_failure(_error_of(state)) if on_failure else None,
        stop=_stop_after(seconds, attempts),
        wait=growing if pause is None else tenacity.wait_fixed(pause),
        sleep=anyio.sleep,
        reraise=True,
    )
    return await loop(call)


async def polling(look: Callable[[], Awaitable[bool]], seconds: float, *, pause: float) -> bool:
    """Whether `look` is true within `seconds`, looking every `pause` seconds: for a state that nobody announces."""
    loop = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_result(lambda found: not found),
        stop=_stop_after(seconds),
        wait=tenacity.wait_fixed(pause),
        sleep=anyio.sleep,
        retry_error_callback=lambda _: False,
    )
    return await loop(look)


async def contending(
    call: Callable[[], Awaitable[T]], *, tries: int, conflict: type[Exception] | tuple[type[Exception], ...]
) -> T:
    """What `call` returns. It is made again at once when somebody else was quicker (`conflict`): for compare-and-set.

    Raises:
        conflict: the last one, after so many `tries`. Any other error goes through at once.
    """
    loop = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(conflict),
        stop=tenacity.stop_after_attempt(tries),
        sleep=anyio.sleep,
        reraise=True,
    )
    return await loop(call)


def _stop_after(seconds: float, attempts: int | None = None) -> Callable[[tenacity.RetryCallState], bool]:
    # By the event loop's clock, which tests may let jump; tenacity's own conditions read the machine's.
    until = anyio.current_time() + seconds
    return lambda state: anyio.current_time() >= until or (attempts is not None and state.attempt_number >= attempts)


def _error_of(state: tenacity.RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TransientError)  # noqa: S101 - the retry predicate lets nothing else come here
    return error
