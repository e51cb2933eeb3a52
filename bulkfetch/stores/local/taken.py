"""A body whose name something else has in a directory: it waits in its temporary file."""

from collections.abc import Callable
from dataclasses import replace

from anyio import CancelScope, to_thread

from bulkfetch.interfaces import Committed
from bulkfetch.keys import KeyPath, key_path
from bulkfetch.models import PutResult
from bulkfetch.stores.local.errors import Destination
from bulkfetch.stores.local.temp_files import TempFile
from bulkfetch.stores.local.tree import Tree


class LocalTaken:
    """Keeps the contract of `interfaces.Taken`.

    Args:
        body: what its object would have been, at `path`.
        there: `path` as it is spelt on the disk.
        measured: size and SHA-256 of what is there; None if that is no regular file.
        submit: commits the body anew, to another path.
    """

    def __init__(
        self,
        *,
        body: PutResult,
        temp: TempFile,
        path: KeyPath,
        there: KeyPath,
        measured: tuple[int, str] | None,
        tree: Tree,
        destination: Destination,
        submit: Callable[[KeyPath, PutResult, Committed], None],
    ) -> None:
        self.key = "/".join(there)
        self.exact = there[-1] == path[-1]
        self.size, self.sha256 = body.size, body.sha256
        self.same = measured == (body.size, body.sha256)
        self.found: PutResult | None = None
        if measured is not None:
            size, sha256 = measured
            self.found = PutResult(
                key=self.key,
                uri=tree.uri(self.key),
                size=size,
                sha256=sha256,
                content_type=body.content_type if self.same else None,
                adopted=True,
            )
        self._body = body
        self._temp = temp
        self._path = path
        self._tree = tree
        self._destination = destination
        self._submit = submit

    async def put(self, key: str, committed: Committed) -> None:
        """See `interfaces.Taken.put`."""
        self._submit(key_path(key), replace(self._body, key=key, uri=self._tree.uri(key)), committed)

    async def keep(self) -> str | None:
        """See `interfaces.Taken.keep`: in quarantine, relative to the archive."""
        with CancelScope(shield=True):
            kept = await to_thread.run_sync(self._keep)
        return kept  # noqa: RET504 - a return inside the scope is one that mypy thinks may not happen

    async def drop(self) -> None:
        """See `interfaces.Taken.drop`."""
        with CancelScope(shield=True):
            await to_thread.run_sync(self._tree.temp_files.discard, self._temp)

    def _keep(self) -> str | None:
        with self._tree.temp_files.dropping(self._temp):
            return self._tree.quarantine(self._temp, self.sha256, self.size)
