"""The pipeline: a producer, a bounded pool of workers, and the order object durable → row durable → ack."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import anyio

from bulkfetch.account import Account
from bulkfetch.errors import Aborted, BulkfetchError, FatalError, PermanentError, Reason, TransientError
from bulkfetch.events import Estimated, Event, RowRecorded
from bulkfetch.fetch import Fetcher, Job, RowWriter, Slot
from bulkfetch.handoff import Handoff
from bulkfetch.interfaces import Ledger, Manifest, Source, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Delivery, Entry, InputRow, Malformed, Outcome, PutResult, Row
from bulkfetch.policy import CANARY_IN_FLIGHT, CANARY_OUTCOMES, RunGuard
from bulkfetch.text import safe

COMMIT_BACKLOG = 128
"""Invoices that may wait for the disk beside those being downloaded: a group commit is quick only with many."""

MAX_PARKED = 10_000
"""Invoices put off to a second pass; past it one fails at once, as an input's length must not set our memory."""


DOUBT_SECONDS = 2.0
"""Seconds after which failures that were kept back are looked at again, while nothing has succeeded yet."""


class Stop:
    """The request to end a run early: the first cause counts."""

    def __init__(self) -> None:
        self.cause: BulkfetchError | None = None
        self.requested = anyio.Event()
        self.hurried = anyio.Event()

    def request(self, cause: BulkfetchError) -> None:
        """Take no more work, finish what is in hand."""
        if self.cause is None:
            self.cause = cause
            self.requested.set()

    def hurry(self) -> None:
        """Hand back at once what is in hand; `request` comes first."""
        self.hurried.set()


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
        notify: Callable[[Event], None],
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
        self._adopting = adopting
        self._before_first_pass = before_first_pass
        self._before_second_pass = before_second_pass
        # Without a turn of the loop for each: there is a place to take more often than not.
        self._places = anyio.Semaphore(min(CANARY_IN_FLIGHT, workers), fast_acquire=True)
        self._withheld = max(0, workers - CANARY_IN_FLIGHT)
        self._parked: deque[Job] = deque()
        # ID → how many invoices had been answered for when it was put off.
        self._put_off: dict[str, int] = {}
        self._handoff = Handoff[Job]()
        self._doubtful: list[tuple[InputRow, Row]] = []
        self._in_hand = 0
        self._first_passes = 0
        self._all_settled = anyio.Event()
        self._producing = anyio.CancelScope()
        self._working = anyio.CancelScope()
        self.account = Account()

    async def run(self) -> None:
        """Until every row is accounted for, or until stopped; then nothing is in flight.

        A stop is not an error here: its cause is in the `Stop`.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._heed_stop, name="stop")
            tasks.start_soon(self._settle_doubts, name="doubts")
            with self._working:
                async with anyio.create_task_group() as workers:
                    for number in range(self._workers + COMMIT_BACKLOG):
                        workers.start_soon(self._work, name=f"worker-{number}")
                    with self._producing:
                        await self._produce()
                    self._handoff.close()
            tasks.cancel_scope.cancel()
        await self._end_doubts()
        # Parked or kept back, and then stopped: they go back like everything else that was not finished.
        left = [*(job.delivery for job in self._parked), *(row for row, _ in self._doubtful)]
        self.account.counts.read -= len(left)
        await self._return(left)

    async def _heed_stop(self) -> None:
        await self._stop.requested.wait()
        self._producing.cancel()
        with anyio.move_on_after(self._drain):
            await self._stop.hurried.wait()
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
            settled, jobs = await self._admit(batch)
            with anyio.CancelScope(shield=True):
                await self._settle(settled)
                self.account.counts.read += len(settled)
        except BaseException:
            await self._return(batch)
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
            await self._return([job.delivery for job in waiting])
            raise

    async def _return(self, rows: Sequence[InputRow]) -> None:
        with anyio.CancelScope(shield=True):
            await self._told(self._source.nack, [(row,) for row in rows])

    async def _told(self, tell: Callable[..., Coroutine[Any, Any, None]], each: Sequence[tuple[object, ...]]) -> None:
        """Call `tell` with each of `each`: at the same time where a broker is told, that may be silent. Nothing ends
        this early, so a whole batch must not take longer than one row."""
        if not self._source.redelivers or len(each) == 1:
            for args in each:
                await tell(*args)
            return
        async with anyio.create_task_group() as tasks:
            for args in each:
                tasks.start_soon(tell, *args)

    async def _settled(self) -> None:
        while self._in_hand:
            self._all_settled = anyio.Event()
            await self._all_settled.wait()

    async def _admit(self, batch: Sequence[InputRow]) -> tuple[list[tuple[InputRow, Row]], list[Job]]:
        """What needs no fetching, with its rows, and what does, in order. Changes nothing."""
        settled: list[tuple[InputRow, Row]] = []
        deliveries: list[Delivery] = []
        for row in batch:
            if isinstance(row, Malformed):
                settled.append((row, self._rows.malformed(row)))
            else:
                deliveries.append(row)
        repeats = await self._repeats(deliveries)
        stored = await self._still_stored([delivery.invoice_id for delivery in deliveries])
        to_fetch: list[tuple[Delivery, str]] = []
        for index, delivery in enumerate(deliveries):
            if index in repeats:
                settled.append((delivery, self._rows.duplicate(delivery, repeats[index])))
            elif entry := stored.get(delivery.invoice_id):
                settled.append((delivery, self._rows.already_stored(delivery, entry, self._store.uri(entry.key))))
            else:
                try:
                    to_fetch.append((delivery, self._keys.key_for(delivery.invoice_id, delivery.fields)))
                except PermanentError as error:
                    settled.append((delivery, self._rows.unusable(delivery, error)))
        return settled, await self._jobs(to_fetch)

    async def _repeats(self, deliveries: Sequence[Delivery]) -> Mapping[int, int | None]:
        """Which of `deliveries` are duplicates; none where a second one may be the first one's redelivery."""
        if self._source.redelivers:
            return {}
        return await self._ledger.repeats([(delivery.invoice_id, delivery.line) for delivery in deliveries])

    async def _still_stored(self, ids: Sequence[str]) -> dict[str, Entry]:
        """Which of `ids` an earlier run stored, and the store still holds as far as that can be asked in time: a row
        alone is not an object."""
        stored = await self._ledger.stored(ids)
        if not self._store.looks_are_cheap:
            return dict(stored)
        entries = list(stored.items())
        found = await self._store.head([entry.key for _, entry in entries])
        return {
            invoice_id: entry
            for (invoice_id, entry), meta in zip(entries, found, strict=True)
            if meta is not None and meta.size == entry.size
        }

    async def _jobs(self, to_fetch: Sequence[tuple[Delivery, str]]) -> list[Job]:
        looked = [(delivery, key) for delivery, key in to_fetch if self._may_be_there(delivery)]
        found = await self._store.head([key for _, key in looked]) if looked else []
        there = {key for (_, key), meta in zip(looked, found, strict=True) if meta is not None}
        return [Job(delivery, key, adopt=key in there, last=delivery.last) for delivery, key in to_fetch]

    def _may_be_there(self, delivery: Delivery) -> bool:
        """Whether to look for an object that nothing known here tells of, before it is fetched."""
        if not self._keys.injective:
            # Where two IDs can have one key, what lies there may be another invoice's: then only its bytes can tell.
            return False
        others_at_work = self._source.redelivers and self._store.looks_are_cheap
        return self._adopting or delivery.redelivered or others_at_work

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
            await self._return([job.delivery])
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

    async def _settle(self, settled: Sequence[tuple[InputRow, Row]]) -> None:
        """Record rows, but keep failures back while nothing has succeeded: it may be the run that is wrong (its URL,
        token or key template), and then they are none of the invoices'."""
        doubtful = [] if self._guard.proven else [pair for pair in settled if self._may_be_ours(*pair)]
        await self._record([pair for pair in settled if pair not in doubtful] if doubtful else settled)
        self._doubtful += doubtful
        for _, row in doubtful:
            self._suspect(row)
        if self._guard.proven or len(self._doubtful) >= CANARY_OUTCOMES:
            await self._end_doubts()

    def _may_be_ours(self, input_row: InputRow, row: Row) -> bool:
        # Where rows are rejected by a queue's worker, others could have taken them.
        unusable_here = row.outcome is Outcome.REJECTED and self._source.redelivers and isinstance(input_row, Delivery)
        return row.outcome is Outcome.FAILED or unusable_here

    async def _settle_doubts(self) -> None:
        """Record what was kept back when nothing else is in hand: a queue does not end, and may never prove the run."""
        while True:
            await anyio.sleep(DOUBT_SECONDS)
            if not self._in_hand:
                await self._end_doubts()

    async def _end_doubts(self) -> None:
        """Record what was kept back, unless the run is to stop: then it is handed back."""
        if not self._doubtful or self._stop.requested.is_set():
            return
        doubtful, self._doubtful = self._doubtful, []
        try:
            with anyio.CancelScope(shield=True):
                await self._record(doubtful, watched=True)
        except FatalError as error:
            self._doubtful += doubtful
            self._stop.request(error)

    async def _record(self, settled: Sequence[tuple[InputRow, Row]], *, watched: bool = False) -> None:
        """Make the rows durable, then count, tell and acknowledge them."""
        await self._manifest.append([row for _, row in settled])
        await self._told(self._acknowledge, settled)
        for _, row in settled:
            self.account.add(row)
            if not watched:
                self._watch(row)
        while self._guard.proven and self._withheld:
            self._withheld -= 1
            self._places.release()

    async def _acknowledge(self, input_row: InputRow, row: Row) -> None:
        self._put_off.pop(row.invoice_id, None)
        await self._source.ack(input_row, row)
        self._notify(RowRecorded(row))

    def _watch(self, row: Row) -> None:
        if row.outcome is Outcome.STORED or row.reason is Reason.ALREADY_STORED:
            self._guard.succeeded()
        elif row.outcome is Outcome.FAILED:
            self._suspect(row)

    def _suspect(self, row: Row) -> None:
        try:
            if row.reason is not None:
                self._guard.failed(row.reason)
        except FatalError as error:
            self._stop.request(error)
