"""The manifest of an archive, for a run on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

import anyio

from bulkfetch.errors import FatalError
from bulkfetch.interfaces import Objects
from bulkfetch.manifest.open_run import Journal
from bulkfetch.manifest.rows import encode_rows
from bulkfetch.models import Entry, Row, RunResult, Summary

LINGER = 0.5
"""Seconds for which the rows of a bucket's manifest gather: each group becomes an object of its own for ever."""

ENOUGH_ROWS = 64

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Group:
    """Rows that become durable together."""

    rows: list[Row] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)
    error: BaseException | None = None


class LocalManifest:
    """A run's hold on the archive in a directory; `Manifest` and `Ledger` by contract.

    `run` is the run's ID. `adopting` says that there may be objects without a row, left by a run that died or put
    there by somebody else: whoever fetches looks before fetching.

    One thread does all the blocking work, in the order in which it was asked for.
    """

    def __init__(self, journal: Journal, thread: ThreadPoolExecutor, *, linger: float) -> None:
        self.run = journal.run
        self.adopting = journal.adopting
        self._journal = journal
        self._thread = thread
        self._linger = linger
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = _Group()
        self._committing = False

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

        With `objects` the archive is in a bucket: its manifests are objects there, and `root` is a local copy of them
        that holds the ledger. Then a row is durable when the object that it came with is. With `shared` other runs may
        be at work on the archive, if they say so, too.

        Raises:
            ArchiveLocked: another run holds the archive.
            UsageError: `run` is no run ID, or a newer bulkfetch wrote the archive.
            FatalError: the archive is damaged or cannot be written.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        opening = thread.submit(Journal.open, root, run, clock, objects, shared=shared)
        try:
            yield cls(await asyncio.wrap_future(opening), thread, linger=LINGER if objects else 0.0)
        finally:
            # Behind everything the thread was asked for, an opening included that was cancelled here but not there.
            with anyio.CancelScope(shield=True):
                await asyncio.get_running_loop().run_in_executor(thread, _close, opening)
            thread.shutdown(wait=False)

    async def append(self, rows: Sequence[Row]) -> None:
        """Record `rows`; on return they are durable, all of them. Rows of callers that come while a write is going on
        are written together by the next one. A cancellation waits until the rows are recorded.

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

    async def stored(self, ids: Sequence[str]) -> Mapping[str, Entry]:
        """The entries of those of `ids` that are stored.

        Raises:
            FatalError: the ledger cannot be read.
        """
        return await self._in_thread(self._journal.ledger.stored, ids)

    async def owner(self, key: str) -> str | None:
        """The ID of the invoice that is stored under `key`, if there is one.

        Raises:
            FatalError: the ledger cannot be read.
        """
        return await self._in_thread(self._journal.ledger.owner, key)

    async def find_repeats(self, rows: Sequence[tuple[str, int | None]]) -> Mapping[int, int | None]:
        """Remember `rows`, pairs of invoice ID and line. For each that repeats an ID of an earlier row, of this call or
        one before: its index in `rows`, and the line where the ID came first (None where the source has no lines).

        Raises:
            FatalError: the disk failed.
        """
        return await self._in_thread(self._journal.seen.repeats, rows)

    async def refresh(self) -> None:
        """Take in what other runs have recorded by now.

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        await self._in_thread(self._journal.refresh, time.monotonic())

    async def accounted(self, source: str, rows: int) -> int:
        """How many invoices the workers of the queue `source` have accounted for since it was last drained; this run
        has `rows` rows.

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        return await self._in_thread(self._journal.accounted, source, rows)

    def stop_waiting(self) -> None:
        """See `interfaces.Manifest.hurry`."""
        self._journal.hurry()

    async def finish(self, result: RunResult) -> Summary:
        """Write the run's summary, `result` sealed, and return it; no row can be appended after.

        Raises:
            FatalError: the manifest failed before, or the summary cannot be written: the run stays unfinished.
        """
        with anyio.CancelScope(shield=True):
            written = await self._in_thread(self._journal.finish, result)
        return written  # noqa: RET504 - a return inside the scope is one that mypy thinks may not happen

    def _commit_soon(self) -> None:
        """Begin a group commit, unless one is going on: when enough rows are there or have waited. Without a linger
        they wait for one turn of the loop, as objects that became durable together bring their rows one by one."""
        if self._committing:
            return
        if len(self._waiting.rows) >= ENOUGH_ROWS:
            self._commit_waiting()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._commit_waiting)

    def _commit_waiting(self) -> None:
        """Hand the waiting group to the thread. Groups change on the event loop only, so nothing needs a lock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        group, self._waiting = self._waiting, _Group()
        self._committing = True
        commit = asyncio.wrap_future(self._thread.submit(self._journal.commit, b"".join(group.lines), group.rows))
        commit.add_done_callback(lambda done: self._committed(group, done))

    def _committed(self, group: _Group, commit: asyncio.Future[None]) -> None:
        group.error = commit.exception()
        group.done.set()
        self._committing = False
        if self._waiting.rows:
            self._commit_soon()

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))


def _close(opening: Future[Journal]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
