"""The queue as a source, on a virtual clock: who waits its turn is not taken for poison, and outages are waited for."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random

import anyio
from support.virtual_clock import run_virtual

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.events import Backlog, OriginDown, OriginUp
from bulkfetch.models import DeadLetter, Lease, Malformed, Outcome, QueueStats, Row
from bulkfetch.sources.queue.poison import SUSPECT
from bulkfetch.sources.queue.source import QueueSource


class MemoryQueue:
    """Messages by ID: how often each was handed out, and from when on it may be handed out again."""

    name = "memory"
    lease_seconds = 30.0

    def __init__(self, ids: Sequence[str], deliveries: int) -> None:
        self.deliveries = dict.fromkeys(ids, deliveries)
        self.ready = dict.fromkeys(ids, 0.0)
        self.dead_letters: list[DeadLetter] = []

    async def fetch(self, limit: int, wait: float) -> Sequence[Lease]:
        now = anyio.current_time()
        found = [each for each, moment in self.ready.items() if moment <= now][:limit]
        if not found:
            await anyio.sleep(wait)
        for each in found:
            self.deliveries[each] += 1
            self.ready[each] = now + self.lease_seconds
        return [Lease(each.encode(), self.deliveries[each], each, redelivered=True) for each in found]

    async def ack(self, lease: Lease) -> None:
        del self.ready[str(lease.handle)]

    async def nack(self, lease: Lease, delay: float) -> None:
        self.ready[str(lease.handle)] = anyio.current_time() + delay

    async def release(self, lease: Lease, delay: float) -> None:
        self.deliveries[str(lease.handle)] -= 1
        await self.nack(lease, delay)

    async def extend(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self.ready[str(lease.handle)] = anyio.current_time() + self.lease_seconds

    async def dead(self, lease: Lease, dead_letter: DeadLetter) -> None:
        self.dead_letters.append(dead_letter)
        await self.ack(lease)

    async def stats(self) -> QueueStats:
        return QueueStats(len(self.ready), 0, len(self.dead_letters))


def worked_off(ids: Sequence[str], *, first: float, each: float) -> tuple[Counter[str], float]:
    """What a worker that comes after two that died with `ids` in hand makes of them, and how long it takes: the first
    one it is given needs `first` seconds, the others `each`."""

    async def work() -> tuple[Counter[str], float]:
        queue, ends = MemoryQueue(ids, SUSPECT - 1), Counter[str]()
        async with QueueSource(
            queue, limit=64, until_empty=True, idle=1.0, max_outage=60.0,
            notify=lambda event: None, utc_now=lambda: datetime.now(UTC), rng=Random(5),
        ).alive() as source, anyio.create_task_group() as tasks:  # fmt: skip

            async def settle(row):
                poison = isinstance(row, Malformed)
                if not poison:
                    await anyio.sleep(each if ends.total() else first)
                outcome = Outcome.REJECTED if poison else Outcome.STORED
                ends[outcome] += 1
                await source.ack(
                    row, Row(run="r", invoice_id="x", outcome=outcome, reason=None, started_at="", finished_at="")
                )

            async for batch in source.batches():
                for row in batch:
                    tasks.start_soon(settle, row)
        return ends, anyio.current_time()

    return run_virtual(work)


def test_suspects_wait_their_turn_however_long_it_takes():
    """Many that were in hand twice when a worker died are all done in the end, behind a slow one or an outage as well;
    none is declared poison for having waited."""
    # 900 s are more than all the leases that a message may have: MAX_DELIVERIES of 30 s.
    ids = [f"INV-{number}" for number in range(64)]
    ends, took = worked_off(ids, first=0.5, each=0.5)
    assert ends == {Outcome.STORED: len(ids)}
    assert took < 2 * 64 * 0.5
    ends, took = worked_off(ids, first=900.0, each=0.5)
    assert ends == {Outcome.STORED: len(ids)}
    assert took < 900 + 2 * 64 * 0.5


class Outage(MemoryQueue):
    """An empty queue whose broker does not answer between two moments."""

    def __init__(self, begin: float, end: float) -> None:
        super().__init__([], 0)
        self._begin, self._end = begin, end

    def _check(self) -> None:
        if self._begin <= anyio.current_time() < self._end:
            raise TransientError(Reason.CONNECTION, "no answer")

    async def fetch(self, limit: int, wait: float) -> Sequence[Lease]:
        self._check()
        return await super().fetch(limit, wait)

    async def stats(self) -> QueueStats:
        self._check()
        return await super().stats()


def waited_for(queue, *, idle, max_outage):
    """What a worker that finds `queue` tells, and when it ends; or the error that ends it."""

    async def work():
        told = []
        async with QueueSource(
            queue, limit=64, until_empty=True, idle=idle, max_outage=max_outage,
            notify=told.append, utc_now=lambda: datetime.now(UTC), rng=Random(5),
        ).alive() as source:  # fmt: skip
            try:
                async for _ in source.batches():
                    pass
            except FatalError as error:
                return str(error), anyio.current_time()
        return [type(event) for event in told if not isinstance(event, Backlog)], anyio.current_time()

    return run_virtual(work)


def test_an_outage_does_not_count_as_idle():
    """What happened in the queue meanwhile nobody saw: the time that it has to be empty begins anew, and the outage is
    told once."""
    told, ended = waited_for(Outage(1.2, 20.0), idle=3.0, max_outage=60.0)
    assert told == [OriginDown, OriginUp]
    assert 23.0 <= ended < 25.0


def test_an_outage_that_lasts_too_long_ends_the_run():
    """After `max_outage` seconds without an answer."""
    error, ended = waited_for(Outage(1.2, 900.0), idle=30.0, max_outage=60.0)
    assert error == "memory has been out of service for 60 s (no answer)"
    assert 61.0 <= ended < 63.0
