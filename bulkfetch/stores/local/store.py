"""A directory as a store: what `put` returns has survived a power loss."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiofiles
from anyio import CancelScope, to_thread

from bulkfetch.errors import InvoiceError
from bulkfetch.interfaces import Body, Committed
from bulkfetch.keys import STATE, KeyPath, key_path
from bulkfetch.models import NO_FIELDS, ObjectMeta, PutResult
from bulkfetch.pdf import PdfCheck
from bulkfetch.stores.local.errors import Destination, disposition, local_errors, unusable
from bulkfetch.stores.local.group_commit import Commit, GroupCommitter
from bulkfetch.stores.local.heads import heads
from bulkfetch.stores.local.temp_files import TempFile
from bulkfetch.stores.local.tree import BLOCK, Tree
from bulkfetch.stores.quarantine import QUARANTINE, Quarantine


class LocalStore:
    """Objects as files below a directory. Keeps the contract of `interfaces.Store`; made by `open`."""

    cheap_head = True

    def __init__(self, tree: Tree, committer: GroupCommitter, destination: Destination, quarantine: Quarantine) -> None:
        self.name = tree.name
        self._tree = tree
        self._committer = committer
        self._destination = destination
        self._quarantine = quarantine

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path, run: str, quarantine: Quarantine | None = None) -> AsyncIterator["LocalStore"]:
        """The store in `root`, which is created where it is missing, for the run `run`. `quarantine` bounds what is
        kept aside in `.bulkfetch/quarantine`; None takes its defaults.

        Temporary files of dead runs are swept, and a probe shows that objects can be made durable here.

        Raises:
            FatalError: they cannot, or less than 64 MiB are free; or the disk fails
                when the store is closed. The message names the fix.
        """
        destination = Destination(str(root))
        try:
            quarantine = quarantine or Quarantine(root / STATE / QUARANTINE)
            tree = await to_thread.run_sync(Tree, root, run, quarantine)
        except OSError as error:
            raise unusable(error, destination) from error
        committer = GroupCommitter(tree, destination).start()
        try:
            yield cls(tree, committer, destination, quarantine)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(committer.close)
                await _close(tree, destination)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        committed: Committed,
        fields: Mapping[str, str] = NO_FIELDS,  # noqa: ARG002 - a directory knows no retention
        put_before: dict[str, int] | None = None,  # noqa: ARG002 - nor does it lose an answer
    ) -> int:
        """See `interfaces.Store.put`. A body up to 1 MiB is held in memory, of a larger one no more than that.

        Bytes that must not be archived (`hold`) are kept in `.bulkfetch/quarantine/<SHA-256>`.
        """
        path = key_path(key)
        incoming = _Incoming(self._tree)
        try:
            await incoming.fill(body)
        except OSError as error:
            await self._abandon(incoming)
            raise disposition(error, self._destination) from error
        except InvoiceError as error:
            await (self._keep(incoming, body) if error.hold else self._abandon(incoming))
            raise
        except BaseException:
            await self._abandon(incoming)
            raise
        promised = PutResult(
            key=key, uri=self._tree.uri(key), size=body.size, sha256=body.sha256, content_type=body.content_type
        )
        # From here on nothing is awaited: the body is verified, and no cancellation comes between it and its object.
        self._committer.submit(Commit(path, incoming.chunks, incoming.temp, promised, committed))
        return incoming.held

    async def head(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """See `interfaces.Store.head`. Only regular files count, reached through no symlink."""
        with local_errors(self._destination):
            return await to_thread.run_sync(heads, self._tree.root_fd, keys)

    async def find_lost(self, sizes: Mapping[str, int]) -> Mapping[str, int | None]:  # noqa: ARG002
        """See `interfaces.Store.find_lost`. What was synced here needs no second look."""
        return {}

    async def adopt(self, key: str) -> PutResult | None:
        """See `interfaces.Store.adopt`."""
        path = key_path(key)
        if self._tree.spellings is not None:
            with local_errors(self._destination):
                there = await to_thread.run_sync(self._tree.spelling, path)
            if there[-1] != path[-1]:
                return None
            path, key = there, "/".join(there)
        check = PdfCheck()
        try:
            async for chunk in self.get(key):
                check.take(chunk)
        except FileNotFoundError:
            return None
        if check.flaw() is not None:
            return None
        with CancelScope(shield=True), local_errors(self._destination):
            await to_thread.run_sync(self._tree.secure, path)
        return PutResult(key=key, uri=self.uri(key), size=check.size, sha256=check.sha256, adopted=True)

    async def set_aside(self, key: str) -> bool:
        """See `interfaces.Store.set_aside`: to `.bulkfetch/quarantine/<SHA-256>`, whatever the limit: it takes no more
        room than before."""
        with CancelScope(shield=True), local_errors(self._destination):
            await to_thread.run_sync(self._tree.set_aside, key_path(key))
        return True

    def uri(self, key: str) -> str:
        """See `interfaces.Store.uri`: a `file:` URI."""
        return self._tree.uri(key)

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """See `interfaces.Store.get`. Chunks are of 1 MiB, the last one shorter."""
        path = key_path(key)
        try:
            with CancelScope(shield=True):
                file = await aiofiles.open(key, "rb", buffering=0, opener=lambda *_: self._open(path))
            try:
                while chunk := await file.read(BLOCK):
                    yield chunk
            finally:
                with CancelScope(shield=True):
                    await file.close()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disposition(error, self._destination) from error

    async def _abandon(self, incoming: "_Incoming") -> None:
        if incoming.temp:
            with CancelScope(shield=True):
                await to_thread.run_sync(self._tree.temp_files.discard, incoming.temp)

    async def _keep(self, incoming: "_Incoming", body: Body) -> None:
        with CancelScope(shield=True):
            await to_thread.run_sync(self._keep_now, incoming, body.sha256, body.size)

    def _keep_now(self, incoming: "_Incoming", sha256: str, size: int) -> None:
        with self._quarantine.no_harm():
            temp = incoming.temp or self._tree.temp_files.create()
            with self._tree.temp_files.dropping(temp):
                temp.write(incoming.chunks)
                self._tree.quarantine(temp, sha256, size)

    def _open(self, path: KeyPath) -> int:
        with self._tree.directories() as directories:
            return directories.open_object(path)


async def _close(tree: Tree, destination: Destination) -> None:
    try:
        await to_thread.run_sync(tree.close)
    except OSError as error:
        raise unusable(error, destination) from error


class _Incoming:
    """A body on its way in: up to one block of it in memory, the rest in a temporary file. `chunks`, of `held` bytes,
    is what is not yet in the file."""

    def __init__(self, tree: Tree) -> None:
        self.chunks: list[bytes] = []
        self.held = 0
        self.temp: TempFile | None = None
        self._tree = tree

    async def fill(self, body: Body) -> None:
        """Read `body` to its end."""
        more = await body.gather(self.chunks, BLOCK)
        if more:
            await self._spill(body)
        self.held = sum(map(len, self.chunks))

    async def _spill(self, body: Body) -> None:
        self.temp = await to_thread.run_sync(self._tree.temp_files.create)
        # A descriptor of its own: a write that was cancelled goes on in its thread while the temporary file is dropped.
        with CancelScope(shield=True):
            file = await aiofiles.open(os.dup(self.temp.fd), "wb")
        try:
            more = True
            while more:
                await file.writelines(self.chunks)
                # Emptied, not replaced: the thread's own reference would keep a block alive while the next one gathers.
                self.chunks.clear()
                more = await body.gather(self.chunks, BLOCK)
        finally:
            with CancelScope(shield=True):
                await file.close()
