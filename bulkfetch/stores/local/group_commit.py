"""One thread behind the event loop: it writes bodies, makes them durable, and names them, in groups.

A hop to a thread for each file would cost more than the write itself, so whole bodies queue up for one thread. The disk
settles many files at once as fast as a few: whatever arrives while one group is committed is the next group. So its
size follows the load, and an idle store commits a lone file at once.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Self

from bulkfetch.errors import BulkfetchError, FatalError
from bulkfetch.interfaces import Committed, Landed
from bulkfetch.keys import KeyPath
from bulkfetch.models import PutResult
from bulkfetch.stores.local.directories import Directories
from bulkfetch.stores.local.errors import Destination, disposition
from bulkfetch.stores.local.taken import LocalTaken
from bulkfetch.stores.local.temp_files import TempFile
from bulkfetch.stores.local.tree import Tree, seal

GROUP_LIMIT = 64


@dataclass(slots=True, eq=False)
class Commit:
    """A verified body on its way to `path`: `chunks` is what is not yet in `temp`; `committed` is told `outcome`.

    Mutable are `path`, `chunks`, `temp`, `outcome`, `published` and `error`, the system's that befell it, by the one
    who has it in hand: the event loop, then the thread.
    """

    path: KeyPath
    chunks: Sequence[bytes]
    temp: TempFile | None
    outcome: Landed
    """The result that is promised, or what came instead."""
    committed: Committed
    published: bool = False
    error: OSError | None = None


_Queue = SimpleQueue[Commit | None]


class GroupCommitter:
    """Takes commits from the event loop that it was made on, and tells their outcomes there.

    Mutable: `_waiting` and `_broken`, on the event loop only.
    """

    def __init__(self, tree: Tree, destination: Destination) -> None:
        self._tree = tree
        self._destination = destination
        self._loop = asyncio.get_running_loop()
        self._queue: _Queue = SimpleQueue()
        self._waiting: set[Commit] = set()
        self._broken: FatalError | None = None
        self._thread = Thread(target=self._work, name="bulkfetch-store")

    def start(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Commit what was submitted, and end the thread. Blocks."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, commit: Commit) -> None:
        """Take `commit`; from here on it ends in an object or an error. To be called on the event loop.

        Raises:
            FatalError: the thread has met a bug, and ended.
        """
        if self._broken:
            raise self._broken
        self._waiting.add(commit)
        self._queue.put(commit)

    def _work(self) -> None:
        try:
            for group in _groups(self._queue):
                for commit in group:
                    self._write(commit)
                for commit in group:
                    self._seal(commit)
                self._publish(group)
                for commit in group:
                    self._meet(commit)
                self._judge(group)
                self._loop.call_soon_threadsafe(self._resolve, group)
        except BaseException as error:  # noqa: BLE001 - nobody else would hear of it, and every put would wait for ever
            self._loop.call_soon_threadsafe(self._break, error)

    def _write(self, commit: Commit) -> None:
        try:
            if commit.temp is None:
                commit.temp = self._tree.temp_files.create()
            commit.temp.write(commit.chunks)
        except OSError as error:
            self._fail(commit, error)
        commit.chunks = ()

    def _seal(self, commit: Commit) -> None:
        if commit.temp is None or commit.error:
            return
        try:
            seal(commit.temp)
        except OSError as error:
            self._fail(commit, error)

    def _publish(self, group: Sequence[Commit]) -> None:
        """Name what is sealed, and make the names durable, each directory once for the whole group."""
        with self._tree.directories() as directories:
            for commit in group:
                if commit.temp is None or commit.error:
                    continue
                try:
                    if self._tree.spellings is not None:
                        self._respell(commit, directories)
                    commit.published = self._tree.publish(commit.temp, commit.path, directories)
                except OSError as error:
                    self._fail(commit, error)
            unsynced = directories.sync() if any(commit.published for commit in group) else {}
        for path, reason in unsynced.items():
            for commit in group:
                if commit.published and commit.path[: len(path)] == path:
                    self._fail(commit, reason)

    def _respell(self, commit: Commit, directories: Directories) -> None:
        """Let `commit` go where the disk would take it: into a folder that may be spelt otherwise."""
        if self._tree.spellings is None or not isinstance(commit.outcome, PutResult):
            return
        with suppress(NotADirectoryError):  # the name is taken, as is seen when it is linked
            folder = self._tree.spellings.make_folder(commit.path[:-1], directories)
            commit.path = (*folder, commit.path[-1])
            key = "/".join(commit.path)
            commit.outcome = replace(commit.outcome, key=key, uri=self._tree.uri(key))

    def _meet(self, commit: Commit) -> None:
        """Where something had the name before: see what it is."""
        if commit.published or commit.error or commit.temp is None or not isinstance(commit.outcome, PutResult):
            return
        try:
            there = self._tree.spelling(commit.path)
            measured = self._tree.measure(there)
        except OSError as error:
            self._fail(commit, error)
            return
        commit.outcome = LocalTaken(
            body=commit.outcome,
            temp=commit.temp,
            path=commit.path,
            there=there,
            measured=measured,
            tree=self._tree,
            destination=self._destination,
            submit=partial(self._submit_again, commit.temp),
        )

    def _submit_again(self, temp: TempFile, path: KeyPath, promised: PutResult, committed: Committed) -> None:
        self.submit(Commit(path, (), temp, promised, committed))

    def _fail(self, commit: Commit, error: OSError) -> None:
        commit.error = error
        if commit.temp:
            self._tree.temp_files.discard(commit.temp)

    def _judge(self, group: Sequence[Commit]) -> None:
        """Turn the system's errors into outcomes. One error that befell many commits, of a directory, counts once; only
        a commit that met none shows that the disk is well, as a disk may take bytes and refuse names."""
        judged: dict[OSError, BulkfetchError] = {}
        for commit in group:
            if commit.error is None:
                self._destination.io_errors = 0
                continue
            if commit.error not in judged:
                judged[commit.error] = disposition(commit.error, self._destination)
                judged[commit.error].__cause__ = commit.error
            commit.outcome = judged[commit.error]

    def _resolve(self, group: Sequence[Commit]) -> None:
        for commit in group:
            if commit in self._waiting:
                self._waiting.remove(commit)
                commit.committed(commit.outcome)

    def _break(self, error: BaseException) -> None:
        self._broken = FatalError(f"{self._tree.name}: the store broke: {type(error).__name__}")
        self._broken.__cause__ = error
        for commit in self._waiting:
            commit.outcome = self._broken
        self._resolve(tuple(self._waiting))


def _groups(queue: _Queue) -> Iterator[Sequence[Commit]]:
    """What has gathered in `queue`, up to `GROUP_LIMIT` at a time, until None comes out."""
    closed = False
    while not closed:
        taken = [queue.get()]
        while len(taken) < GROUP_LIMIT and not queue.empty():
            taken.append(queue.get())
        commits = [commit for commit in taken if commit is not None]
        closed = len(commits) < len(taken)
        if commits:
            yield commits
