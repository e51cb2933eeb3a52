"""The pipeline: a producer, a bounded pool of workers, and the order object durable → row durable → ack."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import anyio
from anyio.abc import TaskGroup

from bulkfetch.errors import Aborted, BulkfetchError, FatalError, PermanentError, TransientError
from bulkfetch.events import Estimated, Listener
from bulkfetch.interfaces import Landed, Source, Taken
from bulkfetch.models import InputRow, PutResult, Row
from bulkfetch.pipeline.adoption import Adoption
from bulkfetch.pipeline.again import Again
from bulkfetch.pipeline.canary import CANARY_IN_FLIGHT, Canary
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.quota import Quota
from bulkfetch.pipeline.recheck import Recheck
from bulkfetch.pipeline.recorder import Recorder
from bulkfetch.pipeline.rendezvous import Rendezvous
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.second_look import SecondLook
from bulkfetch.pipeline.stop import Stop
from bulkfetch.pipeline.tally import Tally
from bulkfetch.pipeline.triage import Triage


@dataclass(frozen=True, slots=True)
class Afterwards:
    """What is looked at once more behind its row: whose document it is, and whether the store has kept it."""

    recheck: Recheck
    second_look: SecondLook


class Pool:
    """Moves every input row to its one manifest row.

    A worker holds an invoice from the request for its link to the last byte of the body. The rest happens by callback:
    the store says that the object is durable, the row joins the next group, and the group is acknowledged. A failure on
    that way comes back to a worker, and so does a body whose name is taken.

    Mutable: `_crew`, the workers' task group while more of them may be started, and `_to_start`, how many more.

    Args:
        in_hand: the count of what is on its way, which `recorder` keeps, too.
        workers: invoices being asked for or downloaded at once.
        drain: seconds that work in hand may take after a stop.
    """

    def __init__(
        self,
        *,
        source: Source,
        triage: Triage,
        fetcher: Fetcher,
        adoption: Adoption,
        rows: RowWriter,
        recorder: Recorder,
        again: Again,
        afterwards: Afterwards,
        rendezvous: Rendezvous[Job],
        canary: Canary,
        in_hand: InHand,
        quota: Quota,
        stop: Stop,
        notify: Listener,
        utc_now: Callable[[], datetime],
        workers: int,
        drain: float,
    ) -> None:
        self._source = source
        self._triage = triage
        self._fetcher = fetcher
        self._adoption = adoption
        self._rows = rows
        self._recorder = recorder
        self._again = again
        self._afterwards = afterwards
        self._rendezvous = rendezvous
        self._canary = canary
        self._in_hand = in_hand
        self._quota = quota
        self._stop = stop
        self._notify = notify
        self._utc_now = utc_now
        self._to_start = workers
        self._drain = drain
        self._crew: TaskGroup | None = None

    @property
    def tally(self) -> Tally:
        """What became of the rows so far."""
        return self._recorder.tally

    async def run(self) -> None:
        """Until every row is accounted for, or until stopped; then nothing is in flight.

        A stop is not an error here: its cause is in the `Stop`.
        """
        producing, working = anyio.CancelScope(), anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._heed_stop, producing, working, name="stop")
            tasks.start_soon(self._recorder.run, name="recorder")
            tasks.start_soon(self._afterwards.second_look.run, name="second look")
            tasks.start_soon(self._watch_doubts, name="doubts")
            tasks.start_soon(self._recorder.watch_canary, lambda: self._in_hand.invoices > 0, name="canary")
            try:
                with working:
                    async with anyio.create_task_group() as self._crew:
                        self._start_workers(CANARY_IN_FLIGHT)
                        with producing:
                            await self._produce()
                        self._rendezvous.close()
            finally:
                self._crew = None
                with anyio.CancelScope(shield=True):
                    await self._come_to_rest()
            tasks.cancel_scope.cancel()

    async def _heed_stop(self, producing: anyio.CancelScope, working: anyio.CancelScope) -> None:
        await self._stop.requested.wait()
        producing.cancel()
        with anyio.move_on_after(self._drain):
            await self._stop.forced.wait()
        working.cancel()
        self._afterwards.second_look.give_up()
        self._recorder.stop_waiting()

    def _start_workers(self, number: int) -> None:
        """Start up to `number` more of the workers. Few are at work until the first success: see `Canary`."""
        if self._crew is None:
            return
        for _ in range(min(number, self._to_start)):
            self._to_start -= 1
            self._crew.start_soon(self._work, name=f"worker-{self._to_start}")

    async def _come_to_rest(self) -> None:
        """Bring every body that was read to its row, and hand back the invoices that are still put off."""
        waiting = self._again.take_waiting()
        while True:
            for job in self._rendezvous.take_returned():
                await self._process(job)
            if not self._in_hand.awaiting_row or self._recorder.ended:
                break
            await self._in_hand.change()
        # What came back may have been put off just now.
        left = [*waiting, *self._again.take_waiting(), *self._again.take_put_off()]
        await self._recorder.release([job.delivery for job in left])
        await self._recorder.caught_up()
        await self._recorder.resolve_held_back()
        self._recorder.close()
        await self._recorder.end()
        await self._afterwards.second_look.finish()

    async def _produce(self) -> None:
        estimate = None
        try:
            with anyio.CancelScope() as reading:
                async for batch in self._source.batches():
                    if estimate != (estimate := self._source.estimate()):
                        self._notify(Estimated(estimate))
                    await self._take(batch)
                    if self._afterwards.recheck.due:
                        await self._in_hand.none()
                        await self._afterwards.recheck.run()
                    if self._quota.exceeded:
                        reading.cancel()
            # What was put off is tried once more when everything else is done: the trouble may have passed.
            await self._in_hand.none()
            await self._hand_out(self._again.take_put_off())
            await self._in_hand.none()
            await self._afterwards.recheck.finish()
            self.tally.read_to_end = not self._quota.exceeded
            if self._quota.exceeded:
                self._stop.request(self._quota.cause())
        except FatalError as error:
            self._stop.request(error)

    async def _watch_doubts(self) -> None:
        try:
            await self._afterwards.recheck.watch()
        except FatalError as error:
            self._stop.request(error)

    async def _take(self, batch: Sequence[InputRow]) -> None:
        try:
            sorted_ = await self._triage.sort(batch)
            known = self._rows.known(sorted_)
            jobs = [Job(delivery, key, adopt=adopt, final=delivery.final) for delivery, key, adopt in sorted_.to_fetch]
        except BaseException as error:
            await self._recorder.release(batch, error)
            raise
        within, over = self._quota.admit(jobs)
        await self._recorder.release([job.delivery for job in over])
        try:
            await self._recorder.record(known)
        except BaseException:
            await self._recorder.release([job.delivery for job in within])
            raise
        await self._hand_out(within)

    async def _hand_out(self, jobs: Sequence[Job]) -> None:
        waiting = deque(jobs)
        try:
            while waiting:
                if self._canary.passed:
                    self._start_workers(self._to_start)
                await self._again.room()
                await self._rendezvous.wait_receiver()
                if self._rendezvous.send_nowait(waiting[0]):
                    waiting.popleft()
                    self._in_hand.taken()
        except BaseException:
            await self._recorder.release([job.delivery for job in waiting])
            raise

    async def _work(self) -> None:
        while True:
            await self._in_hand.room()
            await self._afterwards.second_look.room()
            job = await self._rendezvous.receive()
            if job is None:
                return
            await self._process(job)

    async def _process(self, job: Job) -> None:
        """Bring one job to exactly one of: its row, the store's hands, the second pass, or back to the source."""
        try:
            row = await self._outcome(job)
        except BaseException as error:
            await self._recorder.release([job.delivery], error)
            self._in_hand.ended()
            if isinstance(error, FatalError):
                self._stop.request(error)
            elif not isinstance(error, Aborted):
                raise
            return
        if row is not None:
            self._in_hand.passed_on()
            self._end(job, row)

    async def _outcome(self, job: Job) -> Row | None:
        """The row for `job`; None if the store has it now, or it was put off."""
        landed, job.landed = job.landed, None
        if landed is None and self._again.until_its_time(job):
            return None
        try:
            if landed is None:
                job.effort.begin(self._utc_now(), asyncio.get_running_loop().time())
                if job.adopt and (row := await self._adoption.look(job)):
                    return row
            elif not isinstance(landed, BulkfetchError):
                return await self._settle(job, landed)
            await self._fetch(job, landed)
        except TransientError as error:
            judged = await self._again.last_word(job, error)
            return None if judged is None else self._rows.failed(job, judged)
        except PermanentError as error:
            return self._rows.failed(job, error)
        return None

    async def _settle(self, job: Job, taken: Taken) -> Row | None:
        """The row for `job`, whose name is taken; None if its body is in the store's hands under another name."""
        job.in_memory = 0
        try:
            row = await self._adoption.settle(job, taken, partial(self._committed, job))
        except TransientError as error:
            await self._fetch(job, error)
            return None
        if row is None:
            self._in_hand.passed_on()
        return row

    async def _fetch(self, job: Job, failed: BulkfetchError | None) -> None:
        """Bring the body of `job` into the store's hands; `failed` is why the store did not keep the last one.

        Raises:
            Aborted: the run is ending.
            BulkfetchError: as `Fetcher.fetch`.
        """
        if failed is not None and not isinstance(failed, TransientError):
            raise failed
        # Without a crew the run comes to rest, after a cancellation that nobody announced as a stop, too.
        if self._stop.requested.is_set() or self._crew is None:
            raise Aborted("the run is ending")
        fresh = self._again.is_fresh(job)
        self._adoption.expect(job)
        committed = partial(self._committed, job)
        if failed is None:
            size = await self._fetcher.fetch(job, committed, fresh=fresh)
        else:
            size = await self._fetcher.try_again(job, failed, committed, fresh=fresh)
        job.in_memory = size
        self._in_hand.passed_on(size)
        self._canary.arrived()

    def _committed(self, job: Job, landed: Landed) -> None:
        """Take what the store says of the body that it was given."""
        self._in_hand.written(job.in_memory)
        if isinstance(landed, PutResult):
            self._end(job, self._rows.stored(job, landed))
            return
        self._in_hand.came_back()
        job.landed = landed
        self._rendezvous.put_back(job)

    def _end(self, job: Job, row: Row) -> None:
        self._again.forget(job.delivery.invoice_id)
        self._recorder.add(job.delivery, row)
