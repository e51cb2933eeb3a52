"""Fetches again what came over a connection that cannot be trusted, and corrects what was another invoice's."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import anyio
from anyio import CancelScope, CapacityLimiter

from bulkfetch.errors import Aborted, FatalError, InvoiceError, PermanentError, Reason, TransientError
from bulkfetch.interfaces import History, Landed, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Delivery, Entry, Outcome, PutResult, Row
from bulkfetch.net.asking import checking
from bulkfetch.net.doubts import Doubts
from bulkfetch.pipeline.adoption import object_of
from bulkfetch.pipeline.corrections import Corrections
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.tasks import ungrouped
from bulkfetch.text import printable

MOST_DOUBTS = 10_000
"""How many invoices may be in doubt before they are cleared up; each look for their rows reads the run's manifest."""

WATCH_SECONDS = 60.0
"""How often doubts are cleared up while a queue goes on."""


class Recheck:
    """Clears up doubts: whose document is it that was stored?

    Two equal downloads decide, the stored one included. If the first three all differ, nobody knows: then the invoice
    has `failed/wrong_document`, and the next run may try again.

    Args:
        last_look: closes every kept connection; on return `doubts` is complete.
        workers: invoices being fetched at once.
    """

    def __init__(
        self,
        *,
        doubts: Doubts,
        last_look: Callable[[], Awaitable[None]],
        fetcher: Fetcher,
        store: Store,
        history: History,
        keys: KeyTemplate,
        rows: RowWriter,
        corrections: Corrections,
        utc_now: Callable[[], datetime],
        workers: int,
    ) -> None:
        self._doubts = doubts
        self._last_look = last_look
        self._fetcher = fetcher
        self._store = store
        self._history = history
        self._keys = keys
        self._rows = rows
        self._corrections = corrections
        self._utc_now = utc_now
        self._workers = CapacityLimiter(workers)
        self._left = 0
        self._running = anyio.Lock()
        self._replacing = anyio.Lock()

    @property
    def due(self) -> bool:
        """Whether so many invoices are in doubt that no more should come."""
        return len(self._doubts.ids) - self._left >= MOST_DOUBTS

    async def watch(self) -> None:
        """Clear doubts up every now and then, for ever: a queue may have no end."""
        while True:
            await anyio.sleep(WATCH_SECONDS)
            await self.run()

    async def finish(self) -> None:
        """Clear up every doubt about this run, in which nothing is under way any more.

        Raises:
            FatalError: the run cannot go on; what is in doubt stays so.
        """
        await self._last_look()
        await self.run()

    async def run(self) -> None:
        """Clear up the doubts about all rows recorded so far.

        Raises:
            FatalError: as `finish`.
        """
        if not self._doubts.ids:
            return
        async with self._running:
            # An invoice may have several rows in a queue's run: the newest is what it has come to.
            found = {row.invoice_id: (at, row) for at, row in await self._corrections.find(set(self._doubts.ids))}
            entries = await self._history.stored([*found])
            with ungrouped():
                async with anyio.create_task_group() as tasks:
                    for at, row in found.values():
                        tasks.start_soon(self._clear_up, at, row, entries.get(row.invoice_id))
            self._left = len(self._doubts.ids)

    async def _clear_up(self, at: int, row: Row, entry: Entry | None) -> None:
        async with self._workers:
            if row.outcome is Outcome.SKIPPED and entry is not None:
                stored = entry
            elif row.outcome is Outcome.STORED:
                stored = Entry(row.key or "", row.size or 0, row.sha256 or "")
            else:
                stored = None
            key = stored.key if stored else row.key
            if key is not None and row.outcome is not Outcome.REJECTED:
                job = Job(Delivery(row.invoice_id, row.line, row.fields), key)
                job.effort.begin(self._utc_now(), asyncio.get_running_loop().time())
                try:
                    with checking():
                        await self._compare(at, row, job, stored)
                except Aborted:
                    return  # the run is ending: the doubt stays
            self._doubts.clear(row.invoice_id)

    async def _compare(self, at: int, row: Row, job: Job, stored: Entry | None) -> None:
        seen = [stored.sha256] if stored else []
        problem = "no two of three downloads agree"
        agreed = None
        try:
            agreed = await self._agreed(job, seen)
        except InvoiceError as error:
            problem = f"it cannot be confirmed: {error}"
        if agreed is None and stored is None:
            return  # what was refused stays refused
        if stored is not None and agreed == stored.sha256:
            return
        async with self._replacing:
            try:
                correction = await self._replaced(job, stored, agreed, problem)
            except BaseException:
                # The object in doubt may be in quarantine by now: the row must not name it any more.
                if stored is not None:
                    with CancelScope(shield=True), suppress(FatalError):
                        await self._corrections.write(at, row, self._lost(job, "the run ended"))
                raise
            if correction is not None:
                with CancelScope(shield=True):
                    await self._corrections.write(at, row, correction)

    async def _agreed(self, job: Job, seen: list[str]) -> str | None:
        """The SHA-256 that two downloads have, those in `seen` included; None if the first three all differ."""
        while True:
            sha256 = await self._fetcher.digest(job)
            if sha256 in seen:
                return sha256
            seen.append(sha256)
            if len(seen) == 3:
                return None

    async def _replaced(self, job: Job, stored: Entry | None, agreed: str | None, problem: str) -> Row | None:
        """The correction row, once the right object, with the SHA-256 `agreed`, is in the place of the one in doubt;
        None where an invoice that failed stays so."""
        try:
            moved = stored is None or await self._store.set_aside(job.key)
            if agreed is not None:
                if not moved:
                    job.key = self._keys.alternative(job.delivery.invoice_id, job.delivery.fields)
                return self._rows.stored(job, await self._put(job, agreed))
        except (TransientError, PermanentError) as error:
            problem = str(error)
        return self._lost(job, problem) if stored else None

    def _lost(self, job: Job, problem: str) -> Row:
        doubt = f"what was stored may be another invoice's, and is in quarantine ({problem})"
        return self._rows.failed(job, TransientError(Reason.WRONG_DOCUMENT, printable(doubt)))

    async def _put(self, job: Job, sha256: str) -> PutResult:
        landed: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        await self._fetcher.fetch_only(job, landed.set_result, sha256)
        return await object_of(await landed)
