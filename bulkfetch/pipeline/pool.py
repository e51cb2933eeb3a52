"""The pipeline: a producer, a bounded pool of workers, and the order object durable → row durable → ack."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import anyio

from bulkfetch.errors import Aborted, FatalError, PermanentError, Reason, TransientError
from bulkfetch.events import Estimated, Listener
from bulkfetch.interfaces import Ledger, Manifest, Source, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Entry, InputRow, PutResult, Row
from bulkfetch.pipeline.fetcher import Fetcher, Job, RowWriter, Slot
from bulkfetch.pipeline.handoff import Handoff
from bulkfetch.pipeline.recorder import Settlement
from bulkfetch.pipeline.stop import Stop
from bulkfetch.pipeline.triage import Admission
from bulkfetch.policy import CANARY_IN_FLIGHT, RunGuard
from bulkfetch.text import safe

COMMIT_BACKLOG = 128
"""Invoices that may wait for the disk beside those being downloaded: a group commit is quick only with many."""

MAX_PARKED = 10_000
"""Invoices put off to a second pass; past it one fails at once, as an input's length must not set our memory."""


class Pool:
    """Moves every input row to its one manifest row.

    Args:
        workers: invoices being asked for or downloaded at once.
        drain: seconds that work in hand may take after a stop.
        before_first_pass: called when an invoice is taken up for the first time after `before_second_pass`.
        before_second_pass: called when everything but the parked invoices is done; on a queue, whenever none is in hand
            but those that have failed here before.
        adopting: look for objects without a row before fetching (after a run that died).
    """

    def __init__(
        self,
        *,
        source: Source,
        manifest: Manifest,
        ledger: Ledger,
        store: Store,
        fetcher: Fetcher,
        rows: RowWriter,
        keys: KeyTemplate,
        guard: RunGuard,
        stop: Stop,
        notify: Listener,
        utc_now: Callable[[], datetime],
        workers: int,
        drain: float,
        adopting: bool,
        before_first_pass: Callable[[], None],
        before_second_pass: Callable[[], None],
    ) -> None:
        self._source = source
        self._manifest = manifest
        self._ledger = ledger
        self._admission = Admission(source=source, ledger=ledger, store=store, rows=rows, keys=keys, adopting=adopting)
        self._settlement = Settlement(source=source, manifest=manifest, guard=guard, stop=stop, notify=notify)
        self.account = self._settlement.account
        self._store = store
        self._fetcher = fetcher
        self._rows = rows
        self._keys = keys
        self._guard = guard
        self._stop = stop
        self._notify = notify
        self._utc_now = utc_now
        self._time = asyncio.get_running_loop().time
        self._workers = workers
        self._drain = drain
        self._before_first_pass = before_first_pass
        self._before_second_pass = before_second_pass
        # Without a turn of the loop for each: there is a place to take more often than not.
        self._places = anyio.Semaphore(min(CANARY_IN_FLIGHT, workers), fast_acquire=True)
        self._withheld = max(0, workers - CANARY_IN_FLIGHT)
        self._parked: deque[Job] = deque()
        # ID → how many invoices had been answered for when it was put off.
        self._put_off: dict[str, int] = {}
        self._handoff = Handoff[Job]()
        self._in_hand = 0
        self._first_passes = 0
        self._all_settled = anyio.Event()
        self._producing = anyio.CancelScope()
        self._working = anyio.CancelScope()

    async def run(self) -> None:
        """Until every row is accounted for, or until stopped; then nothing is in flight.

        A stop is not an error here: its cause is in the `Stop`.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._heed_stop, name="stop")
            tasks.start_soon(self._settlement.watch_doubts, lambda: self._in_hand > 0, name="doubts")
            with self._working:
                async with anyio.create_task_group() as workers:
                    for number in range(self._workers + COMMIT_BACKLOG):
                        workers.start_soon(self._work, name=f"worker-{number}")
                    with self._producing:
                        await self._produce()
                    self._handoff.close()
            tasks.cancel_scope.cancel()
        # Parked and then stopped: they go back like everything else that was not finished.
        self.account.counts.read -= len(self._parked)
        await self._settlement.give_back([job.delivery for job in self._parked])
        await self._settlement.close()

    async def _heed_stop(self) -> None:
        await self._stop.requested.wait()
        self._producing.cancel()
        with anyio.move_on_after(self._drain):
            await self._stop.forced.wait()
        self._working.cancel()
        self._manifest.hurry()

    async def _produce(self) -> None:
        estimate = None
        try:
            async for batch in self._source.batches():
                if estimate != (estimate := self._source.estimate()):
                    self._notify(Estimated(estimate))
                await self._take(batch)
            # What was parked is tried once more when everything else is done: the trouble may have passed.
            await self._settled()
            self._before_second_pass()
            self.account.counts.read -= len(self._parked)
            second = [replace(job, last=True) for job in self._parked]
            self._parked.clear()
            await self._hand_out(second)
        except FatalError as error:
            self._stop.request(error)

    async def _take(self, batch: Sequence[InputRow]) -> None:
        try:
            settled, jobs = await self._admission.admit(batch)
            with anyio.CancelScope(shield=True):
                await self._settle(settled)
                self.account.counts.read += len(settled)
        except BaseException as error:
            await self._settlement.give_back(batch, error)
            raise
        await self._hand_out(jobs)

    async def _hand_out(self, jobs: Sequence[Job]) -> None:
        waiting = deque(jobs)
        try:
            while waiting:
                # Each job gets a place before a worker gets the job. Idle workers hold none, nor is one held for them:
                # they would starve a job that gave its own up while it was made durable, and has to try again.
                await self._handoff.wanted()
                await self._places.acquire()
                if self._handoff.give(waiting[0]):
                    waiting.popleft()
                    self._in_hand += 1
                    self.account.counts.read += 1
                else:
                    self._places.release()
        except BaseException:
            await self._settlement.give_back([job.delivery for job in waiting])
            raise

    async def _settle(self, settled: Sequence[tuple[InputRow, Row]]) -> None:
        await self._settlement.settle(settled)
        for _, row in settled:
            self._put_off.pop(row.invoice_id, None)
        while self._guard.proven and self._withheld:
            self._withheld -= 1
            self._places.release()

    async def _settled(self) -> None:
        while self._in_hand:
            self._all_settled = anyio.Event()
            await self._all_settled.wait()

    async def _work(self) -> None:
        slot = Slot(self._places)
        try:
            while (job := await self._handoff.take()) is not None:
                slot.take_over()
                await self._process(job, slot)
                slot.release()
        finally:
            slot.release()

    async def _process(self, job: Job, slot: Slot) -> None:
        """Bring one job to its row, put it off, or hand it back; never neither."""
        job.effort.begin(self._utc_now(), self._time())
        first = not (job.last or job.delivery.invoice_id in self._put_off)
        if first:
            self._first_passes += 1
            self._before_first_pass()
        try:
            row = await self._outcome(job, slot)
            if row is not None:
                # There is an object that waits for its row: no cancellation may come in between.
                with anyio.CancelScope(shield=True):
                    await self._settle([(job.delivery, row)])
        except BaseException as error:
            self.account.counts.read -= 1
            await self._settlement.give_back([job.delivery], error)
            if isinstance(error, FatalError):
                self._stop.request(error)
            elif not isinstance(error, Aborted):
                raise
        finally:
            self._in_hand -= 1
            self._all_settled.set()
            if first:
                self._first_passes -= 1
                if self._source.redelivers and not self._first_passes:
                    # What failed comes back at any time: a few that always fail are no outage there either.
                    self._before_second_pass()

    async def _outcome(self, job: Job, slot: Slot) -> Row | None:
        """The row for `job`; None if it was put off."""
        await slot.hold()
        if self._stop.requested.is_set():
            raise Aborted("the run is ending")
        try:
            result = await self._store.adopt(job.key) if job.adopt else None
            if result is None:
                result = await self._fetched(job, slot)
            if result.adopted:
                if entry := await self._recorded_meanwhile(job, result):
                    return self._rows.already_stored(job.delivery, entry, self._store.uri(entry.key))
                await self._check_owner(job)
            return self._rows.stored(job, result)
        except TransientError as error:
            if error.second_pass and not job.last and await self._postponed(job):
                return None
            return self._rows.failed(job, error)
        except PermanentError as error:
            return self._rows.failed(job, error)

    async def _fetched(self, job: Job, slot: Slot) -> PutResult:
        """The object of `job`, fetched; on a queue the one that is there, as it may be another delivery's of the same
        invoice, and some servers render a document anew for every download."""
        try:
            return await self._fetcher.fetch(job, slot)
        except PermanentError as error:
            if error.reason is not Reason.CONFLICT or not self._source.redelivers or not self._keys.injective:
                raise
            result = await self._store.adopt(job.key)
            if result is None:
                raise
            return result

    async def _postponed(self, job: Job) -> bool:
        """Put `job` off until time may have mended it: each is given two passes. Of a queue's, the second one counts if
        others were answered for in between: else it is not the invoice that failed."""
        if not self._source.redelivers:
            if room := len(self._parked) < MAX_PARKED:
                self._parked.append(job)
            return room
        invoice_id = job.delivery.invoice_id
        if self._put_off.get(invoice_id, self.account.answered) < self.account.answered:
            return False
        if len(self._put_off) >= MAX_PARKED:
            # Most likely another worker got it; if not, it is given one pass more than others.
            del self._put_off[next(iter(self._put_off))]
        self._put_off[invoice_id] = self.account.answered
        self.account.counts.read -= 1
        with anyio.CancelScope(shield=True):
            await self._source.nack(job.delivery, later=True)
        return True

    async def _recorded_meanwhile(self, job: Job, result: PutResult) -> Entry | None:
        """What another worker of this queue has written down of the object that was there already. A row of an object
        that has been lost since, and was fetched anew, is not about this one."""
        if not self._source.redelivers:
            return None
        await self._ledger.refresh()
        entry = (await self._ledger.stored([job.delivery.invoice_id])).get(job.delivery.invoice_id)
        return entry if entry == Entry(result.key, result.size, result.sha256) else None

    async def _check_owner(self, job: Job) -> None:
        """Two invoices with the same bytes under the same key are one too few, whatever the template."""
        owner = await self._ledger.owner(job.key)
        if owner not in (None, job.delivery.invoice_id):
            raise PermanentError(Reason.CONFLICT, f"{safe(job.key, 120)} is the object of invoice {safe(owner, 120)}")
