"""Where invoices wait that were refused, or whose document is not ready yet: by time, and in nobody's hands."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import anyio

from bulkfetch.errors import Deferred, NoLink, Throttled
from bulkfetch.interfaces import Source
from bulkfetch.net.headers import MAX_RETRY_AFTER
from bulkfetch.pipeline.canary import CANARY_OUTCOMES, Canary
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.job import Job, Patience

FIRST_WAIT = 5.0
LEAST_WAIT = 1.0
MOST_REFUSALS = 12
"""How often an invoice may be refused before it is put off to the end of the run: some minutes."""

MOST_WAITING = 10_000
"""How many invoices may wait at a time. Beyond that the source waits: memory must not follow the length of
the input."""


class Waits:
    """How long an invoice waits: as the server says; else 5 s, then `wait_max`, then four times that (30 s, 2 min)."""

    def __init__(self, wait_max: float) -> None:
        self._steps = (FIRST_WAIT, max(FIRST_WAIT, wait_max), max(FIRST_WAIT, 4.0 * wait_max))
        self._all = sum(self._steps)

    def next(self, patience: Patience, error: Deferred) -> float | None:
        """Seconds until the invoice is asked for again, counted in `patience`; None if it has waited long enough."""
        if isinstance(error, Throttled):
            return _after_refusal(patience, error)
        if patience.waited >= self._all or (error.retry_after or 0.0) > MAX_RETRY_AFTER:
            return None
        if error.retry_after is None:
            wait = self._steps[min(patience.waits, len(self._steps) - 1)]
        else:
            # A server that names a second each time is asked less and less often, not a hundred times.
            wait = max(LEAST_WAIT, error.retry_after, patience.waited)
        patience.waits += 1
        patience.waited += wait
        return wait


def _after_refusal(patience: Patience, error: Throttled) -> float | None:
    """1 s, 2 s, 4 s ... 30 s, or what the server asks for; None if the invoice was refused too often."""
    wait = max(error.retry_after or 0.0, min(30.0, 2.0**patience.refusals))
    patience.refusals += 1
    return wait if patience.refusals <= MOST_REFUSALS and wait <= MAX_RETRY_AFTER else None


def before_the_end(error: Deferred) -> float:
    """The least number of seconds until an invoice that has waited is asked for once more, at the end of the run."""
    return max(FIRST_WAIT, min(error.retry_after or 0.0, MAX_RETRY_AFTER))


class WaitingRoom(Protocol):
    """Where invoices wait that were refused, or whose document is not ready yet. It keeps the count of invoices in
    hand."""

    async def wait(self, job: Job, error: Deferred) -> bool:
        """Let `job` wait; False if it has waited for long enough."""
        ...

    def until_its_time(self, job: Job) -> bool:
        """Let `job` wait until `Job.not_before`; False if that time has come."""
        ...

    async def room(self) -> None:
        """Wait until another invoice may come to wait."""
        ...

    def forget(self, invoice_id: str) -> None:
        """The invoice has its row."""
        ...

    def take(self) -> list[Job]:
        """All that wait here; they are not kept any longer, and in hand no more."""
        ...


class ByTheClock:
    """For an input that hands each row out once: jobs wait here, in hand, and `again` is called with each in time.

    Mutable: the timers; they change without awaiting.
    """

    def __init__(self, waits: Waits, canary: Canary, in_hand: InHand, *, again: Callable[[Job], None]) -> None:
        self._waits = waits
        self._canary = canary
        self._in_hand = in_hand
        self._again = again
        self._time = asyncio.get_running_loop().time
        self._timers: dict[Job, asyncio.TimerHandle] = {}

    async def wait(self, job: Job, error: Deferred) -> bool:
        if _may_be_the_runs_fault(error, self._canary, len(self._timers)):
            return False
        seconds = self._waits.next(job.patience, error)
        if seconds is None:
            job.not_before = self._time() + before_the_end(error)
            # What comes at the end as it came now is kept aside.
            job.effort.last_bad_sha256 = error.refused.sha256 if error.refused else None
            return False
        self._until(job, self._time() + seconds)
        return True

    def until_its_time(self, job: Job) -> bool:
        if job.not_before <= self._time():
            return False
        self._until(job, job.not_before)
        return True

    async def room(self) -> None:
        # Those with workers may all come to wait.
        while self._in_hand.invoices - self._in_hand.awaiting_row >= MOST_WAITING:
            await self._in_hand.change()

    def forget(self, invoice_id: str) -> None:
        """Nothing to do."""

    def take(self) -> list[Job]:
        jobs, self._timers, timers = list(self._timers), {}, self._timers
        for timer in timers.values():
            timer.cancel()
        self._in_hand.ended(len(jobs))
        return jobs

    def _until(self, job: Job, moment: float) -> None:
        self._timers[job] = asyncio.get_running_loop().call_at(moment, self._its_time, job)

    def _its_time(self, job: Job) -> None:
        del self._timers[job]
        self._again(job)


class InTheQueue:
    """For a queue: it hands the invoice out again when its time comes, to whichever worker. Each worker has a patience
    of its own, and remembers how much of it is used up."""

    def __init__(self, waits: Waits, canary: Canary, in_hand: InHand, source: Source) -> None:
        self._waits = waits
        self._canary = canary
        self._in_hand = in_hand
        self._source = source
        self._patience: dict[str, Patience] = {}

    async def wait(self, job: Job, error: Deferred) -> bool:
        invoice_id = job.delivery.invoice_id
        if _may_be_the_runs_fault(error, self._canary, len(self._patience)):
            return False
        patience = self._patience.pop(invoice_id, job.patience)
        seconds = self._waits.next(patience, error)
        if seconds is None:
            # A queue has no end for which to put the invoice off.
            job.final = True
            return False
        if len(self._patience) >= MOST_WAITING:
            # Most likely another worker got it; if not, it is waited for anew.
            del self._patience[next(iter(self._patience))]
        self._patience[invoice_id] = patience
        with anyio.CancelScope(shield=True):
            await self._source.release(job.delivery, seconds)
        self._in_hand.ended()
        return True

    def until_its_time(self, job: Job) -> bool:  # noqa: ARG002 - the queue keeps the time
        return False

    async def room(self) -> None:
        """Nothing waits here."""

    def forget(self, invoice_id: str) -> None:
        self._patience.pop(invoice_id, None)

    def take(self) -> list[Job]:
        return []


def _may_be_the_runs_fault(error: Deferred, canary: Canary, waiting: int) -> bool:
    """Whether `error` says more of the run than of its invoice: then the canary has to see it soon."""
    return isinstance(error, NoLink) and not canary.passed and waiting >= CANARY_OUTCOMES
