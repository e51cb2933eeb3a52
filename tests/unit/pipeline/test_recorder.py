"""The recorder: one append at a time for all rows that gathered, and durable before counted, told and acknowledged."""

import anyio
import pytest
from support.doubles import GivenQueue, GivenSource, RecordingManifest

from bulkfetch.errors import Aborted, FatalError, Reason
from bulkfetch.events import RowsRecorded
from bulkfetch.models import Delivery, Outcome, Row
from bulkfetch.pipeline.canary import Canary
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.recorder import Recorder
from bulkfetch.pipeline.stop import Stop

pytestmark = pytest.mark.anyio


class Slow:
    """A manifest whose appends take until they are let go on; fails with `error` if it has one."""

    def __init__(self):
        self.groups, self.error = [], None
        self.go_on = anyio.Event()
        self.go_on.set()

    async def append(self, rows):
        self.groups.append([row.line for row in rows])
        await self.go_on.wait()
        if self.error:
            raise self.error

    async def find(self, ids):
        return []

    def stop_waiting(self):
        self.go_on.set()


def pair(line, outcome=Outcome.STORED, reason=None):
    delivery = Delivery(f"INV-{line}", line)
    row = Row(run="r", invoice_id=delivery.invoice_id, outcome=outcome, reason=reason, line=line, started_at="",
              finished_at="")  # fmt: skip
    return delivery, row


class Bench:
    """A recorder at work, with what it works on."""

    def __init__(self, source=GivenSource):
        self.source, self.slow, self.stop, self.in_hand = source([]), Slow(), Stop(), InHand()
        self.durable, self.told = set(), []
        self.canary = Canary(max_failed_ratio=0.99, others_may_take=False)
        self.recorder = Recorder(
            source=self.source,
            manifest=RecordingManifest(self.slow, self.durable),
            canary=self.canary,
            stop=self.stop,
            notify=self.told.append,
            in_hand=self.in_hand,
        )

    def add(self, *pairs):
        """As a worker does it."""
        for delivery, row in pairs:
            self.in_hand.taken()
            self.in_hand.passed_on()
            self.recorder.add(delivery, row)

    async def __aenter__(self):
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self.recorder.run)
        return self

    async def __aexit__(self, *raised):
        self.recorder.close()
        return await self._tasks.__aexit__(*raised)


async def settled(bench):
    with anyio.fail_after(5):
        await bench.in_hand.none()


async def test_rows_that_come_during_an_append_are_the_next_group():
    """One append at a time; what gathers meanwhile goes together, in order."""
    async with Bench() as bench:
        bench.slow.go_on = anyio.Event()
        bench.add(pair(1))
        await anyio.wait_all_tasks_blocked()
        bench.add(pair(2), pair(3))
        await anyio.wait_all_tasks_blocked()
        bench.add(pair(4))
        assert bench.slow.groups == [[1]]
        bench.slow.go_on.set()
        await settled(bench)
    assert bench.slow.groups == [[1], [2, 3, 4]]


async def test_a_row_is_counted_told_and_acknowledged_once_it_is_durable():
    """Not before: an append under way has acknowledged nothing."""
    async with Bench() as bench:
        bench.slow.go_on = anyio.Event()
        bench.add(pair(1))
        await anyio.wait_all_tasks_blocked()
        assert (bench.recorder.tally.total, bench.told, dict(bench.source.acked)) == (0, [], {})
        assert bench.in_hand.awaiting_row == 1
        bench.slow.go_on.set()
        await settled(bench)
        assert bench.durable == {1}
        assert (bench.recorder.tally.stored, dict(bench.source.acked)) == (1, {1: 1})
        assert [type(event) for event in bench.told] == [RowsRecorded]
        assert bench.in_hand.awaiting_row == 0


async def test_no_cancellation_comes_between_a_row_and_its_place():
    """What was added is recorded, also when everything around is cancelled."""
    with anyio.CancelScope() as scope:
        async with Bench() as bench:
            bench.add(pair(1), pair(2))
            scope.cancel()
    assert bench.durable == {1, 2}
    assert dict(bench.source.acked) == {1: 1, 2: 1}


async def test_rows_that_cannot_be_written_go_back_untried():
    """A manifest that fails stops the run; its rows are counted nowhere and released, once each."""
    async with Bench() as bench:
        bench.slow.error = FatalError("the disk is full")
        bench.add(pair(1))
        await bench.recorder.record([pair(2)])
        await settled(bench)
    assert str(bench.stop.cause) == "the disk is full"
    assert bench.recorder.tally.total == 0
    assert (dict(bench.source.acked), dict(bench.source.nacked)) == ({}, {1: 1, 2: 1})
    assert bench.durable == set()


async def test_failures_are_held_back_until_something_succeeds():
    """They have no row and no acknowledgement, and are no longer in hand; the first success brings them all."""
    async with Bench() as bench:
        bench.add(pair(1, Outcome.FAILED, Reason.NOT_FOUND), pair(2, Outcome.FAILED, Reason.NOT_FOUND))
        await settled(bench)
        assert bench.durable == set()
        bench.add(pair(3))
        await settled(bench)
    assert bench.durable == {1, 2, 3}
    assert (bench.recorder.tally.stored, bench.recorder.tally.failed) == (1, 2)


@pytest.mark.parametrize("stopped", [False, True])
async def test_what_is_still_held_back_at_the_end_is_recorded_or_released(stopped):
    """A run that ends by itself records it, a run that was stopped hands it back."""
    async with Bench() as bench:
        bench.add(pair(1, Outcome.FAILED, Reason.NOT_FOUND))
        await settled(bench)
        if stopped:
            bench.stop.request(Aborted("stopped"))
        await bench.recorder.resolve_held_back()
    assert (bench.durable, dict(bench.source.nacked)) == ((set(), {1: 1}) if stopped else ({1}, {}))


async def test_a_queue_is_told_of_a_whole_group_at_once():
    """An acknowledgement that waits for a server does not wait for the one before it."""

    class Together(GivenQueue):
        def __init__(self, rows):
            super().__init__(rows)
            self.waiting, self.all_here = 0, anyio.Event()

        async def ack(self, input_row, row):
            self.waiting += 1
            if self.waiting == 3:
                self.all_here.set()
            await self.all_here.wait()
            await super().ack(input_row, row)

    async with Bench(Together) as bench:
        bench.add(pair(1), pair(2), pair(3))
        await settled(bench)
    assert dict(bench.source.acked) == {1: 1, 2: 1, 3: 1}
