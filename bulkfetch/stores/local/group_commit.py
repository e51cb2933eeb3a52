"""Two threads behind the event loop: one writes bodies, the other makes them durable in groups.

A hop to a thread for each file would cost more than the write itself, so whole bodies queue up for one writer; and as
the disk settles many files at once as fast as a few, everything that was written while one group was being committed
is the next group. So its size follows the load, and an idle store commits a lone file at once.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Self

from bulkfetch.errors import BulkfetchError, FatalError
from bulkfetch.keys import KeyPath
from bulkfetch.stores.local.errors import Place, disposition
from bulkfetch.stores.local.temp_files import TempFile
from bulkfetch.stores.local.tree import Tree, seal

GROUP_LIMIT = 64


@dataclass(slots=True, eq=False)
class Commit:
    """A body on its way to `path`: `chunks` is what is not yet in `temp`.

    `done` is set to None once it is published, or to its `temp`, which is left where something has the name already.
    """

    path: KeyPath
    chunks: Sequence[bytes]
    temp: TempFile | None
    received: Callable[[], None]
    done: asyncio.Future[TempFile | None]
    published: bool = False
    error: BulkfetchError | None = None


_Queue = SimpleQueue[Commit | None]


class GroupCommitter:
    """Takes commits from the event loop that it was made on, and settles each one's `done` there."""

    def __init__(self, tree: Tree, place: Place) -> None:
        self._tree = tree
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._bodies: _Queue = SimpleQueue()
        self._written: _Queue = SimpleQueue()
        self._waiting: set[Commit] = set()
        self._broken: FatalError | None = None
        self._threads = [
            Thread(target=self._guarded, args=(self._write_bodies,), name="bulkfetch-writer"),
            Thread(target=self._guarded, args=(self._commit_groups,), name="bulkfetch-committer"),
        ]

    def start(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        """Commit what was submitted, and end the threads. Blocks."""
        self._bodies.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, commit: Commit) -> None:
        """Take `commit`; from here on it ends in an object or an error. To be called on the event loop."""
        if self._broken:
            raise self._broken
        self._waiting.add(commit)
        self._bodies.put(commit)

    def _write_bodies(self) -> None:
        for batch in _batches(self._bodies):
            for commit in batch:
                self._write(commit)
            self._loop.call_soon_threadsafe(_announce, batch)
            for commit in batch:
                self._written.put(commit)
        self._written.put(None)

    def _write(self, commit: Commit) -> None:
        try:
            if commit.temp is None:
                commit.temp = self._tree.temp_files.create()
            commit.temp.write(commit.chunks)
        except OSError as error:
            self._fail(commit, error)
        commit.chunks = ()

    def _commit_groups(self) -> None:
        for group in _batches(self._written):
            for commit in group:
                self._seal(commit)
            self._publish(group)
            self._loop.call_soon_threadsafe(self._settle, group)

    def _seal(self, commit: Commit) -> None:
        if commit.temp is None or commit.error:
            return
        try:
            seal(commit.temp)
        except OSError as error:
            self._fail(commit, error)
        else:
            self._place.io_errors = 0

    def _publish(self, group: Sequence[Commit]) -> None:
        with self._tree.directories() as directories:
            for commit in group:
                if commit.temp is None or commit.error:
                    continue
                try:
                    commit.published = self._tree.publish(commit.temp, commit.path, directories)
                except OSError as error:
                    self._fail(commit, error)
            failed = directories.sync()
        for path, reason in failed.items():
            for commit in group:
                if commit.published and commit.path[: len(path)] == path:
                    self._fail(commit, reason)

    def _fail(self, commit: Commit, error: OSError) -> None:
        commit.error = disposition(error, self._place)
        commit.error.__cause__ = error
        if commit.temp:
            self._tree.temp_files.discard(commit.temp)

    def _settle(self, group: Sequence[Commit]) -> None:
        for commit in group:
            self._waiting.discard(commit)
            if commit.done.done():
                continue
            if commit.error:
                commit.done.set_exception(commit.error)
            else:
                commit.done.set_result(None if commit.published else commit.temp)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - nobody else would hear of it, and every put would wait for ever
            self._loop.call_soon_threadsafe(self._break, error)
            self._bodies.put(None)
            self._written.put(None)

    def _break(self, error: BaseException) -> None:
        self._broken = FatalError(f"{self._tree.name}: the store broke: {type(error).__name__}")
        self._broken.__cause__ = error
        for commit in self._waiting:
            commit.error = self._broken
        self._settle(tuple(self._waiting))


def _announce(batch: Sequence[Commit]) -> None:
    for commit in batch:
        if not commit.error:
            commit.received()


def _batches(queue: _Queue) -> Iterator[Sequence[Commit]]:
    """What has gathered in `queue`, up to `GROUP_LIMIT` at a time, until None comes out."""
    closed = False
    while not closed:
        batch = [queue.get()]
        while len(batch) < GROUP_LIMIT and not queue.empty():
            batch.append(queue.get())
        commits = [commit for commit in batch if commit is not None]
        closed = len(commits) < len(batch)
        if commits:
            yield commits
