"""Looks once more at the objects of a run while it goes on, and mends what a store has said yes to and lost."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import anyio
from anyio import CancelScope, CapacityLimiter

from bulkfetch.errors import Aborted, FatalError, InvoiceError, Reason, TransientError
from bulkfetch.events import Event, RowsRecorded
from bulkfetch.interfaces import Landed, Store
from bulkfetch.models import Delivery, Outcome, PutResult, Row
from bulkfetch.pipeline.adoption import object_of
from bulkfetch.pipeline.corrections import Corrections
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.stop import Stop
from bulkfetch.tasks import ungrouped

GROUP = 1000
"""Objects that are looked at together: as many as one listing shows."""

GATHER_SECONDS = 1.0
"""For how long rows gather at the most before their objects are looked at."""

MOST_WAITING = 8 * GROUP
"""Rows that may wait for the look; beyond that no further invoice is begun."""

MENDED_AT_ONCE = 8
FORGETFUL = 20
"""So many lost objects in one group, if they are the most of it, are the store's way and not an accident."""


class SecondLook:
    """Hears of the rows that are durable, and asks the store for their objects in groups. What is lost is fetched
    again, and a correction row says what came of that.

    Mutable: the rows that wait, the future of those who wait for a change, and whether more may come.
    """

    def __init__(
        self,
        *,
        store: Store,
        fetcher: Fetcher,
        rows: RowWriter,
        corrections: Corrections,
        stop: Stop,
        utc_now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._rows = rows
        self._corrections = corrections
        self._stop = stop
        self._utc_now = utc_now
        self._waiting: list[Row] = []
        self._changed: asyncio.Future[None] | None = None
        self._closed = False
        self._looking = CancelScope()
        self._ended = anyio.Event()

    def hear(self, event: Event) -> None:
        """Take in the rows of which `event` tells, if it does."""
        if isinstance(event, RowsRecorded):
            # What was adopted has just been read, or compared, in its place.
            self._waiting += (row for row in event.rows if row.outcome is Outcome.STORED and row.reason is None)
            self._tell()

    async def room(self) -> None:
        """Wait until another invoice may be begun."""
        while len(self._waiting) >= MOST_WAITING and not self._ended.is_set():
            await self._change()

    async def run(self) -> None:
        """Look at the objects of what is heard, until `finish`."""
        try:
            with self._looking:
                while await self._gathered():
                    group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                    self._tell()
                    await self._look(group)
        except FatalError as error:
            self._stop.request(error)
        finally:
            self._ended.set()
            self._tell()

    async def finish(self) -> None:
        """Wait until all that was heard has been looked at, or `give_up`; after the last row has become durable."""
        self._closed = True
        self._tell()
        await self._ended.wait()

    def give_up(self) -> None:
        """Look no further. What is known to be lost still gets its correction row."""
        self._looking.cancel()

    async def _gathered(self) -> bool:
        """Whether there are rows to look at; waits for them."""
        while not self._waiting and not self._closed:
            await self._change()
        with anyio.move_on_after(GATHER_SECONDS):
            while len(self._waiting) < GROUP and not self._closed:
                await self._change()
        return bool(self._waiting)

    async def _look(self, group: Sequence[Row]) -> None:
        sizes = {row.key: row.size for row in group if row.key is not None and row.size is not None}
        lost = await self._store.find_lost(sizes)
        if not lost:
            return
        with CancelScope(shield=True):
            named = [row for row in group if row.key in lost]
            found = await self._corrections.find({row.invoice_id for row in named})
        # Meanwhile another row may have taken the place of one that was heard.
        positions = {_object_of(row): position for position, row in found if row.outcome is Outcome.STORED}
        if len(lost) >= FORGETFUL and 2 * len(lost) > len(sizes):
            said = f"the store has said that it keeps {len(sizes)} objects, and does not have {len(lost)} of them"
            self._stop.request(FatalError(f"{self._store.name}: {said}"))
        await self._mend_all({positions[at]: row for row in named if (at := _object_of(row)) in positions})

    async def _mend_all(self, lost: dict[int, Row]) -> None:
        """Bring each row of `lost`, by position, to its correction row, or find that its object is there by now."""
        at_once = CapacityLimiter(MENDED_AT_ONCE)

        async def mend(position: int, row: Row) -> None:
            async with at_once:
                if await self._mend(position, row):
                    del lost[position]

        try:
            with ungrouped():
                async with anyio.create_task_group() as tasks:
                    for position, row in [*lost.items()]:
                        tasks.start_soon(mend, position, row)
        finally:
            # All at once: rows of a bucket's manifest that come one by one take half a second each.
            with CancelScope(shield=True), ungrouped():
                async with anyio.create_task_group() as tasks:
                    for position, row in lost.items():
                        correction = self._rows.failed(self._job(row), _lost())
                        tasks.start_soon(self._corrections.write, position, row, correction)

    async def _mend(self, position: int, row: Row) -> bool:
        """Fetch the invoice of `row` again, and record what came of that. False if the run is ending."""
        if self._stop.requested.is_set():
            return False
        job = self._job(row)
        try:
            found = await self._fetch(job)
            if await self._store.find_lost({found.key: found.size}):
                raise _lost()
        except InvoiceError as error:
            correction = self._rows.failed(job, error)
        except FatalError as error:
            self._stop.request(error)
            return False
        except Aborted:
            return False
        else:
            if found.adopted and found.sha256 == row.sha256:
                return True  # it is there after all
            correction = self._rows.stored(job, found)
        with CancelScope(shield=True):
            await self._corrections.write(position, row, correction)
        return True

    async def _fetch(self, job: Job) -> PutResult:
        landed: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        await self._fetcher.fetch(job, landed.set_result)
        with CancelScope(shield=True):
            result = await landed
        return await object_of(result)

    def _job(self, row: Row) -> Job:
        assert row.key and row.sha256 and row.size is not None  # noqa: S101 - a stored row has them
        job = Job(Delivery(row.invoice_id, row.line, row.fields), row.key)
        job.effort.begin(self._utc_now(), anyio.current_time())
        # If the object is there after all it is this invoice's own, whatever the server sends this time.
        job.effort.put_before[row.sha256] = row.size
        return job

    async def _change(self) -> None:
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _tell(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


def _lost() -> TransientError:
    return TransientError(Reason.STORE_ERROR, "the store has said that it keeps the object, and does not have it")


def _object_of(row: Row) -> tuple[str, str | None, str | None]:
    return row.invoice_id, row.key, row.sha256
