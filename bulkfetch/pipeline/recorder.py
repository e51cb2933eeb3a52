"""From what became of a row to its place in the manifest: durable, counted, told, acknowledged, in this order."""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import anyio

from bulkfetch.errors import BulkfetchError, FatalError, Reason
from bulkfetch.events import Listener, RowRecorded
from bulkfetch.interfaces import Manifest, Source
from bulkfetch.models import Delivery, InputRow, Outcome, Row
from bulkfetch.pipeline.stop import Stop
from bulkfetch.pipeline.tally import Account
from bulkfetch.policy import CANARY_OUTCOMES, RunGuard

DOUBT_SECONDS = 2.0
"""Seconds after which failures that were kept back are looked at again, while nothing has succeeded yet."""


class Settlement:
    """Settles input rows, or gives them back, and keeps the `account`.

    While nothing has succeeded, failures are kept back: they may be the run's own.
    """

    def __init__(
        self,
        *,
        source: Source,
        manifest: Manifest,
        guard: RunGuard,
        stop: Stop,
        notify: Listener,
    ) -> None:
        self._source = source
        self._manifest = manifest
        self._guard = guard
        self._stop = stop
        self._notify = notify
        self._doubtful: list[tuple[InputRow, Row]] = []
        self.account = Account()

    async def settle(self, settled: Sequence[tuple[InputRow, Row]]) -> None:
        """Record rows, but keep failures back while nothing has succeeded: it may be the run that is wrong (its URL,
        token or key template), and then they are none of the invoices'."""
        doubtful = [] if self._guard.proven else [pair for pair in settled if self._may_be_ours(*pair)]
        await self._record([pair for pair in settled if pair not in doubtful] if doubtful else settled)
        self._doubtful += doubtful
        for _, row in doubtful:
            self._suspect(row)
        if self._guard.proven or len(self._doubtful) >= CANARY_OUTCOMES:
            await self.end_doubts()

    def _may_be_ours(self, input_row: InputRow, row: Row) -> bool:
        # Where rows are rejected by a queue's worker, others could have taken them.
        unusable_here = row.outcome is Outcome.REJECTED and self._source.redelivers and isinstance(input_row, Delivery)
        return row.outcome is Outcome.FAILED or unusable_here

    async def watch_doubts(self, busy: Callable[[], bool]) -> None:
        """Record what was kept back when nothing else is in hand: a queue does not end, and may never prove the run."""
        while True:
            await anyio.sleep(DOUBT_SECONDS)
            if not busy():
                await self.end_doubts()

    async def end_doubts(self) -> None:
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

    async def _acknowledge(self, input_row: InputRow, row: Row) -> None:
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

    async def give_back(self, rows: Sequence[InputRow], error: BaseException | None = None) -> None:
        """Hand `rows` back, as of `error` if there was one. After a bug they count as tried: if it is one of them that
        brings it about, it must not take down worker after worker for ever."""
        bug = isinstance(error, Exception) and not isinstance(error, BulkfetchError)
        with anyio.CancelScope(shield=True):
            await self._told(partial(self._source.nack, later=bug), [(row,) for row in rows])

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

    async def close(self) -> None:
        """Record what is still kept back, or, if the run was stopped, give it back."""
        await self.end_doubts()
        left = [row for row, _ in self._doubtful]
        self.account.counts.read -= len(left)
        await self.give_back(left)
