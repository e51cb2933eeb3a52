"""From the end of an input row to its place in the manifest: durable, counted, told, acknowledged, in this order."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio

from bulkfetch.errors import BulkfetchError, FatalError
from bulkfetch.events import Listener, RowsRecorded
from bulkfetch.interfaces import Manifest, Source
from bulkfetch.models import InputRow, Row
from bulkfetch.pipeline.canary import Canary, Pair
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.stop import Stop
from bulkfetch.pipeline.tally import Tally

HELD_BACK_SECONDS = 2.0
"""While nothing has succeeded yet, failures that were held back are looked at again after so many seconds."""


class Recorder:
    """One task for the whole run: it appends the rows that have gathered while the last append went on.

    Mutable: the rows that wait, the futures of those who wait for them (`_known` is of the last `record`), and whether
    more may come. All change on the event loop, without awaiting.

    Args:
        in_hand: told how many of the rows given to `add` are done with: recorded, held back, or released.
    """

    def __init__(
        self,
        *,
        source: Source,
        manifest: Manifest,
        canary: Canary,
        stop: Stop,
        notify: Listener,
        in_hand: InHand,
    ) -> None:
        self.tally = Tally()
        self._source = source
        self._manifest = manifest
        self._canary = canary
        self._stop = stop
        self._notify = notify
        self._in_hand = in_hand
        self._waiting: list[Pair] = []
        self._judged: list[Pair] = []
        self._of_jobs = 0
        self._told: list[asyncio.Future[None]] = []
        self._known: asyncio.Future[None] | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._closed = False
        self._end = anyio.Event()

    def add(self, input_row: InputRow, row: Row) -> None:
        """Record `row`, which ends `input_row`, soon."""
        self._waiting.append((input_row, row))
        self._of_jobs += 1
        self._wake()

    async def record(self, pairs: Sequence[Pair]) -> None:
        """Record rows that need no fetching, while the next ones are sorted. On return those of the call before are
        recorded or held back, or released if the manifest cannot be written: no more than two batches wait."""
        if not pairs:
            return
        self._waiting += pairs
        before, self._known = self._known, asyncio.get_running_loop().create_future()
        self._told.append(self._known)
        self._wake()
        await self._settled(before)

    async def caught_up(self) -> None:
        """Wait until the rows of the last `record` are recorded, held back or released."""
        await self._settled(self._known)

    async def _settled(self, known: asyncio.Future[None] | None) -> None:
        if known is not None and not self.ended:
            with anyio.CancelScope(shield=True):
                await known

    async def run(self) -> None:
        """Record what comes until `close`. No cancellation reaches it: what is an object gets its row."""
        with anyio.CancelScope(shield=True):
            try:
                while await self._more():
                    await self._commit()
            finally:
                self._end.set()
                _wake_all(self._told)

    @property
    def ended(self) -> bool:
        """Whether nothing will be recorded any more."""
        return self._end.is_set()

    def stop_waiting(self) -> None:
        """Have no more patience with a manifest in trouble: see `Manifest.stop_waiting`."""
        self._manifest.stop_waiting()

    def close(self) -> None:
        """Let `run` end when nothing waits."""
        self._closed = True
        self._wake()

    async def end(self) -> None:
        """Wait until nothing will be recorded any more."""
        await self._end.wait()

    async def release(self, rows: Sequence[InputRow], error: BaseException | None = None) -> None:
        """Hand `rows` back as untried. If `error` is a bug they count as tried: an invoice that triggers a bug must not
        take down one worker after the other for ever."""
        bug = isinstance(error, Exception) and not isinstance(error, BulkfetchError)
        with anyio.CancelScope(shield=True):
            await self._tell(self._source.nack if bug else self._source.release, [(row,) for row in rows])

    async def watch_canary(self, busy: Callable[[], bool]) -> None:
        """Record failures that were held back once nothing else is in hand: a queue does not end, so a success may
        never come."""
        while True:
            await anyio.sleep(HELD_BACK_SECONDS)
            if not busy():
                await self.resolve_held_back()

    async def resolve_held_back(self) -> None:
        """Have what was held back recorded with the next group; if the run is to stop, release it."""
        held = self._canary.let_go()
        if self._stop.requested.is_set():
            await self.release([input_row for input_row, _ in held])
        elif held:
            self._judged += held
            self._wake()

    async def _more(self) -> bool:
        while not (self._waiting or self._judged):
            if self._closed:
                return False
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        return True

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def _commit(self) -> None:
        pairs, self._waiting = self._waiting, []
        told, self._told = self._told, []
        of_jobs, self._of_jobs = self._of_jobs, 0
        judged, self._judged = self._judged, []
        try:
            ready, problem = self._canary.sift(pairs)
            if problem is not None:
                self._stop.request(problem)
            if ready or judged:
                await self._append([*judged, *ready] if judged else ready)
            if self._canary.held_back and self._canary.over:
                await self.resolve_held_back()
        finally:
            _wake_all(told)
            self._in_hand.recorded(of_jobs)

    async def _append(self, pairs: Sequence[Pair]) -> None:
        """Make the rows durable, then count, tell and acknowledge them."""
        rows = [row for _, row in pairs]
        try:
            await self._manifest.append(rows)
        except FatalError as error:
            self._stop.request(error)
            await self.release([input_row for input_row, _ in pairs])
            return
        except BaseException as error:
            await self.release([input_row for input_row, _ in pairs], error)
            raise
        self.tally.add(rows)
        await self._tell(self._source.ack, pairs)
        self._notify(RowsRecorded(rows))
        if not self._canary.passed:
            self._canary.recorded(pairs)

    async def _tell(self, tell: Callable[..., Coroutine[Any, Any, None]], each: Sequence[tuple[object, ...]]) -> None:
        """Call `tell` with each tuple of arguments in `each`. Where the source waits for a server, all calls run at the
        same time: nothing ends them early, and a silent server must cost one time-out, not one for each row."""
        if not self._source.capabilities.telling_blocks or len(each) == 1:
            for arguments in each:
                await tell(*arguments)
            return
        async with anyio.create_task_group() as tasks:
            for arguments in each:
                tasks.start_soon(tell, *arguments)


def _wake_all(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        waiter.set_result(None)
