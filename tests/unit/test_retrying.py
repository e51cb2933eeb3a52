"""The retry loop on a virtual clock: what is tried again, how often, and how long it waits."""

import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from random import Random

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.virtual_clock import run_virtual

from bulkfetch.errors import (
    Aborted,
    BadBody,
    FatalError,
    LinkRefused,
    NotReady,
    OriginError,
    PermanentError,
    Reason,
    Refused,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.retrying import Effort, RetryPolicy, backoff, contending, persistent, persisting, polling, retrying

POLICY = RetryPolicy(attempts=5, wait_initial=0.5, wait_max=30.0, timeout=0.0)


def run(*errors, policy=POLICY, effort=None, seconds=0.0, before_wait=None):
    """Meet `errors` one a try (the last one for ever, None succeeds); result or error, tries, waits and time passed."""
    effort = effort or Effort()
    left, waits, tries = list(errors), [], []

    async def attempt():
        tries.append(anyio.current_time())
        await anyio.sleep(seconds)
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return "stored"

    async def main():
        effort.begin(datetime.now(UTC), anyio.current_time())
        note = before_wait or (lambda error, wait: waits.append(wait))
        try:
            return await retrying(effort, policy, rng=Random(5), before_wait=note)(attempt)
        except (TransientError, PermanentError, FatalError, Aborted) as error:
            return error

    return run_virtual(main), tries, waits


def transient(charged=True):
    return TransientError(Reason.TRUNCATED, "cut", charged=charged)


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (transient(), 5),
        (OriginError(Reason.SERVER_ERROR, "500"), 5),
        (BadBody(Reason.NOT_PDF, "html", refused=Refused("00", 4)), 5),
        (LinkRefused(Reason.LINK_REFUSED, "403"), 3),
        (UnexpectedAnswer(Reason.BAD_RESPONSE, "418"), 2),
        (NotReady(Reason.UNPROCESSABLE, "409"), 1),
        (PermanentError(Reason.NOT_FOUND, "404"), 1),
        (FatalError("401"), 1),
        (Aborted("closing"), 1),
    ],
)
def test_how_often_each_kind_is_tried(error, tries):
    """Transient errors have five tries or the cap of their kind, all others one, and the last error comes unchanged."""
    result, started, _ = run(error)
    assert result is error
    assert len(started) == tries


def test_caps_are_of_their_own_kind():
    """A cap counts failures of its kind alone; together they are bounded by the attempts."""
    refused, unexpected = LinkRefused(Reason.LINK_REFUSED, "403"), UnexpectedAnswer(Reason.BAD_RESPONSE, "418")
    assert run(refused, unexpected, refused, None)[0] == "stored"
    assert run(refused, refused, unexpected, transient(), transient(), None)[0].reason is Reason.TRUNCATED


def test_uncharged_failures_use_nothing_up():
    """Outages cost no attempt and wait no back-off: the gate does the waiting."""
    result, tries, waits = run(*[transient(charged=False)] * 38, None)
    assert result == "stored"
    assert len(tries) == 39
    assert waits == [0.0] * 38


def test_what_is_refused_is_not_asked_for_again_at_once():
    """It waits elsewhere: no worker is held for it."""
    throttled = Throttled(Reason.RATE_LIMITED, "429", http_status=429, retry_after=1.0)
    result, tries, _ = run(throttled)
    assert result is throttled
    assert len(tries) == 1


def test_waits_grow_with_the_charged_failures():
    """Full jitter: each wait is within 0.5 s x 2^n, and at most the ceiling."""
    policy = RetryPolicy(attempts=12, wait_initial=0.5, wait_max=8.0, timeout=0.0)
    _, tries, waits = run(transient(), policy=policy)
    assert len(waits) == 11
    assert all(0 <= wait <= min(8.0, 0.5 * 2**n) for n, wait in enumerate(waits))
    assert max(waits) > 4.0
    assert tries[-1] == pytest.approx(sum(waits))


def test_the_time_of_one_invoice_is_bounded():
    """With a timeout no further try begins after it, charged or not."""
    policy = RetryPolicy(attempts=1000, wait_initial=0.5, wait_max=1.0, timeout=20.0)
    for error in (transient(), transient(charged=False)):
        result, tries, _ = run(error, policy=policy, seconds=3.0)
        assert result is error
        assert 17.0 <= tries[-1] < 20.0


def test_a_stop_ends_the_loop_before_its_wait():
    """Whoever is told of a wait may end the loop by raising."""

    def stop(error, wait):
        raise Aborted("the run is ending")

    result, tries, _ = run(transient(), before_wait=stop)
    assert isinstance(result, Aborted)
    assert len(tries) == 1


def test_the_digest_kept_is_that_of_the_last_wrong_body():
    """The digest of a body that was no PDF is remembered for the next try, over other failures in between."""
    effort = Effort()
    run(BadBody(Reason.NOT_PDF, "html", refused=Refused("aa", 4)), transient(), None, effort=effort)
    assert effort.last_bad_sha256 == "aa"
    assert (effort.charged, effort.failures_by_kind[BadBody]) == (2, 1)


def test_a_second_pass_has_the_full_allowance_and_keeps_the_costs():
    """`begin` gives all tries back, and keeps what was spent, when it began, and the last wrong digest."""
    effort = Effort()
    first = datetime(2026, 3, 1, tzinfo=UTC)
    effort.begin(first, 10.0)
    effort.attempts, effort.links = 5, 4
    effort.failed(BadBody(Reason.NOT_PDF, "html", refused=Refused("aa", 4)))
    effort.begin(datetime(2026, 3, 2, tzinfo=UTC), 500.0)
    assert (effort.started_at, effort.started) == (first, 500.0)
    assert (effort.attempts, effort.links, effort.last_bad_sha256) == (5, 4, "aa")
    assert (effort.charged, sum(effort.failures_by_kind.values())) == (0, 0)


class Troubled:
    """Fails `times` times, and calls `then` with each try's number; notes which tries began in haste."""

    def __init__(self, times, then=lambda number: None):
        self.give_up = threading.Event()
        self.tries = []
        self._times, self._then = times, then

    def __call__(self):
        self.tries.append(self.give_up.is_set())
        self._then(len(self.tries))
        if len(self.tries) <= self._times:
            raise transient()
        return "done"


@pytest.fixture
def waits(monkeypatch):
    """How long `persistent` waits between two tries."""
    lengths = [0.0]
    monkeypatch.setattr("tenacity.wait.random.uniform", lambda low, high: lengths[0])
    return lengths


def test_persistence_ends_in_success_or_in_time(waits):
    """What the run hangs on is tried until it succeeds, or until its time is over; another error goes through."""
    call = Troubled(50)
    assert persistent(call, 60.0, call.give_up) == "done"
    call = Troubled(1)
    with pytest.raises(TransientError):
        persistent(call, 0.0, call.give_up)
    assert len(call.tries) == 1

    def fail(number):
        raise FatalError("denied")

    call = Troubled(0, fail)
    with pytest.raises(FatalError):
        persistent(call, 60.0, call.give_up)


def test_haste_ends_a_wait(waits):
    """Nothing is waited for once it gives up: the wait under way ends, and one last try follows."""
    waits[0] = 40.0
    began, call = time.monotonic(), Troubled(5)
    threading.Timer(0.05, call.give_up.set).start()
    with pytest.raises(TransientError):
        persistent(call, 60.0, call.give_up)
    assert time.monotonic() - began < 10.0
    assert call.tries == [False, True]


def test_the_try_under_way_when_it_hurries_is_the_last(waits):
    """In haste from the start there is one try; and none follows one during which haste began."""
    call = Troubled(5)
    call.give_up.set()
    with pytest.raises(TransientError):
        persistent(call, 60.0, call.give_up)
    assert call.tries == [True]
    call = Troubled(5, lambda number: number == 3 and call.give_up.set())
    with pytest.raises(TransientError):
        persistent(call, 60.0, call.give_up)
    assert call.tries == [False] * 3


@given(st.integers(1, 5000), st.floats(0.01, 10), st.floats(0.01, 100))
def test_backoff_stays_below_its_ceiling(charged, initial, ceiling):
    """However many failures there were, the wait is between 0 and the smaller of ceiling and initial x 2^n."""
    wait = backoff(charged, initial=initial, ceiling=ceiling, rng=Random(charged))
    assert 0 <= wait <= min(ceiling, initial * 2.0 ** min(charged - 1, 60))


def test_backoff_spreads_over_the_whole_range():
    """Full jitter: waits fall into the lower and into the upper quarter of the range alike."""
    rng = Random(3)
    waits = [backoff(4, initial=1.0, ceiling=30.0, rng=rng) for _ in range(200)]
    assert min(waits) < 2.0
    assert max(waits) > 6.0


def failing(errors, *, seconds, **options):
    """Persist on the virtual clock with a call that meets `errors` and then succeeds: the result or error, the moments
    of its tries, and the failures that were told."""
    left, tries, told = list(errors), [], []

    async def call():
        tries.append(anyio.current_time())
        if left:
            raise left.pop(0)
        return "done"

    async def main():
        try:
            return await persisting(call, seconds, on_failure=told.append, **options)
        except (TransientError, FatalError) as error:
            return error

    return run_virtual(main), tries, told


def test_a_call_is_made_again_at_a_steady_pace():
    """With `pause`, every wait is as long, and each failure is told, the last one included."""
    errors = [transient() for _ in range(5)]
    assert failing(errors[:2], seconds=60.0, pause=1.0) == ("done", [0.0, 1.0, 2.0], errors[:2])
    result, tries, told = failing(errors, seconds=3.0, pause=1.0)
    assert (result, tries, told) == (errors[3], [0.0, 1.0, 2.0, 3.0], errors[:4])


def test_a_call_is_made_again_at_growing_intervals():
    """Without `pause` the waits grow up to ten seconds; an error that no time mends goes through at once, untold."""
    result, tries, _ = failing([transient() for _ in range(400)], seconds=600.0)
    assert isinstance(result, TransientError)
    assert tries[-1] >= 600.0
    assert max(later - earlier for earlier, later in pairwise(tries)) <= 10.0
    fatal = FatalError("denied")
    assert failing([fatal], seconds=60.0) == (fatal, [0.0], [])


def test_a_state_is_polled_until_it_comes_or_time_is_up():
    """True as soon as it is seen; False when the time is over."""

    async def main(moment, seconds):
        async def look():
            return anyio.current_time() >= moment

        return await polling(look, seconds, pause=0.5), anyio.current_time()

    assert run_virtual(lambda: main(0.0, 2.0)) == (True, 0.0)
    assert run_virtual(lambda: main(1.2, 2.0)) == (True, 1.5)
    assert run_virtual(lambda: main(9.0, 2.0)) == (False, 2.0)


def test_who_loses_a_race_tries_again_at_once():
    """Only a conflict is tried again, without a wait, and not for ever."""

    async def main(errors):
        left, tries = list(errors), []

        async def call():
            tries.append(anyio.current_time())
            if left:
                raise left.pop(0)
            return "done"

        try:
            return await contending(call, tries=3, conflict=KeyError), tries
        except (KeyError, ValueError) as error:
            return error, tries

    lost, other = [KeyError() for _ in range(3)], ValueError()
    assert run_virtual(lambda: main(lost[:2])) == ("done", [0.0] * 3)
    assert run_virtual(lambda: main(lost)) == (lost[2], [0.0] * 3)
    assert run_virtual(lambda: main([other])) == (other, [0.0])


@pytest.mark.anyio
async def test_persistence_on_the_loop_ends_with_its_tries(waits):
    """With a number of tries the last error comes after as many, however much time is left."""
    for times, attempts in ((2, 3), (50, None)):
        call = Troubled(times)
        assert await persisting(anyio_call(call), 60.0, attempts=attempts) == "done"
    call = Troubled(3)
    with pytest.raises(TransientError):
        await persisting(anyio_call(call), 60.0, attempts=3)
    assert len(call.tries) == 3


def anyio_call(call):
    async def awaited():
        return call()

    return awaited
