"""The manifest of an archive, for a run on the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

import anyio

from bulkfetch.errors import FatalError
from bulkfetch.interfaces import Objects
from bulkfetch.manifest.history import RunHistory
from bulkfetch.manifest.open_run import OpenRun
from bulkfetch.manifest.rows import encode_rows
from bulkfetch.manifest.runs_at_work import RunNote
from bulkfetch.models import Row, RunResult, Summary

LINGER = 0.5
"""Seconds for which the rows of a bucket's manifest gather: each group becomes an object of its own for ever."""

ENOUGH_ROWS = 64


@dataclass(slots=True, eq=False)
class _Group:
    """Rows that become durable together."""

    rows: list[Row] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)
    error: BaseException | None = None


class ManifestWriter:
    """A run's hold on an archive, in a directory or a bucket. Keeps the contract of `interfaces.Manifest`.

    `run` is the run's ID, `rows` the local file of its rows, `history` what earlier runs stored. `adopting` says that
    there may be objects without a row, left by a run that died or put there by somebody else: whoever fetches looks for
    them before fetching. `doubted` are the invoices that earlier runs left in doubt.

    One thread does all the blocking work, in the order in which it was asked for.
    """

    def __init__(self, open_run: OpenRun, thread: ThreadPoolExecutor, *, linger: float) -> None:
        self.run = open_run.run
        self.rows = open_run.rows
        self.adopting = open_run.adopting
        self.doubted = open_run.doubted
        self.history = RunHistory(open_run, thread)
        self._open_run = open_run
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._linger = linger
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = _Group()
        self._committing = False
        self._doubts: Collection[str] | None = None
        self._noting = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        root: Path,
        *,
        run: str | None = None,
        clock: Callable[[], datetime],
        objects: Objects | None = None,
        shared: bool = False,
    ) -> AsyncIterator[Self]:
        """Begin a run on the archive in `root`, which is created if need be, and hold it until the block ends.

        With `objects` the archive is in a bucket: its manifests are objects there, and `root` holds a local copy of
        them and the ledger. A row is then durable when the object that carries it is in the bucket. With `shared`,
        other runs that were opened as `shared` may be at work on the archive at the same time.

        Raises:
            ArchiveLocked: another run holds the archive.
            UsageError: `run` is no run ID, or a newer bulkfetch wrote the archive.
            FatalError: the archive is damaged or cannot be written.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        opening = thread.submit(OpenRun.open, root, run, clock, objects, shared=shared)
        try:
            yield cls(await asyncio.wrap_future(opening), thread, linger=LINGER if objects else 0.0)
        finally:
            # Behind everything the thread was asked for, an opening included that was cancelled here but not there.
            with anyio.CancelScope(shield=True):
                await asyncio.get_running_loop().run_in_executor(thread, _close, opening)
            thread.shutdown(wait=False)

    async def append(self, rows: Sequence[Row]) -> None:
        """See `interfaces.Manifest.append`. A cancellation waits until the rows are recorded.

        While one write is going on, the rows of all other callers gather, and the next write takes them together.

        Raises:
            FatalError: the manifest cannot be written; none of `rows` counts as recorded, nor will any later row.
        """
        if not rows:
            return
        lines = encode_rows(rows)
        group = self._waiting
        group.rows += rows
        group.lines.append(lines)
        self._commit_soon()
        with anyio.CancelScope(shield=True):
            await group.done.wait()
        if group.error is not None:
            raise FatalError(str(group.error)) from group.error

    async def find(self, ids: Collection[str]) -> Sequence[tuple[int, Row]]:
        """See `interfaces.Manifest.find`."""
        return await self._loop.run_in_executor(self._thread, self._open_run.find, ids)

    async def announce(self, note: RunNote) -> None:
        """Let whoever looks at the archive know of this run, `note`. Never raises."""
        await self._loop.run_in_executor(self._thread, self._open_run.announce, note)

    def note_doubts(self, ids: Collection[str]) -> None:
        """Have the invoices in doubt, which are `ids` from here on, outlive this process. Returns at once; what changes
        while they are written is written together."""
        self._doubts = frozenset(ids)
        if not self._noting:
            self._noting = True
            noted = self._loop.run_in_executor(self._thread, self._open_run.doubts.write, self._doubts)
            self._doubts = None
            noted.add_done_callback(self._noted)

    def _noted(self, done: asyncio.Future[None]) -> None:
        self._noting = False
        # A disk that fails is told by the rows, which are worth more.
        if not done.cancelled() and done.exception() is None and self._doubts is not None:
            self.note_doubts(self._doubts)

    async def distinct_since_drain(self, source: str, rows: int) -> int:
        """How many different invoices the workers of the queue `source` have written rows for since it was last
        drained; this run has `rows` rows.

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        return await self._loop.run_in_executor(self._thread, self._open_run.distinct_since_drain, source, rows)

    def stop_waiting(self) -> None:
        """See `interfaces.Manifest.stop_waiting`."""
        self._open_run.stop_waiting()

    async def finish(self, result: RunResult) -> Summary:
        """Write the run's summary, `result` sealed, and return it; no row can be appended after.

        Raises:
            FatalError: the manifest failed before, or the summary cannot be written: the run stays unfinished.
        """
        with anyio.CancelScope(shield=True):
            written = await self._loop.run_in_executor(self._thread, self._open_run.finish, result)
        return written  # noqa: RET504 - a return inside the scope is one that mypy thinks may not happen

    def _commit_soon(self) -> None:
        """Begin a group commit when enough rows are there or the linger is over, unless a commit is going on.

        Without a linger the rows wait for one turn of the loop: objects that became durable together bring their rows
        one by one."""
        if self._committing:
            return
        if len(self._waiting.rows) >= ENOUGH_ROWS:
            self._commit_waiting()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._commit_waiting)

    def _commit_waiting(self) -> None:
        """Hand the waiting group to the thread. Groups change on the event loop only, so nothing needs a lock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        group, self._waiting = self._waiting, _Group()
        self._committing = True
        commit = self._loop.run_in_executor(self._thread, self._open_run.commit, b"".join(group.lines), group.rows)
        commit.add_done_callback(lambda done: self._committed(group, done))

    def _committed(self, group: _Group, commit: asyncio.Future[None]) -> None:
        group.error = commit.exception()
        group.done.set()
        self._committing = False
        if self._waiting.rows:
            self._commit_soon()


def _close(opening: Future[OpenRun]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
