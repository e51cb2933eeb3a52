"""A body whose name another object has in a bucket: it waits in the spool."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from bulkfetch.interfaces import Committed
from bulkfetch.keys import key_path
from bulkfetch.models import PutResult
from bulkfetch.stores.bucket.object_lock import Retention
from bulkfetch.stores.bucket.spool import Content, Spool


@dataclass(frozen=True, slots=True)
class Upload:
    """A verified body on its way to `key`; `put_before` as in `interfaces.Store.put`."""

    key: str
    content: Content
    sha256: str
    content_type: str | None
    retention: Retention | None
    put_before: dict[str, int]


class BucketTaken:
    """Keeps the contract of `interfaces.Taken`.

    Args:
        same: `found` has the content of `upload`, or of an earlier one of the same invoice.
        again: uploads the body anew, to another key.
        held: what keeps the body; closed when it is not needed any more.
    """

    exact = True

    def __init__(
        self,
        upload: Upload,
        found: PutResult,
        same: bool,
        again: Callable[[Upload, Committed, AsyncExitStack], Awaitable[None]],
        spool: Spool,
        held: AsyncExitStack,
    ) -> None:
        self.key = upload.key
        self.found: PutResult | None = found
        self.same = same
        self.size, self.sha256 = upload.content.size, upload.sha256
        self._upload = upload
        self._again = again
        self._spool = spool
        self._held = held

    async def put(self, key: str, committed: Committed) -> None:
        """See `interfaces.Taken.put`. On return the object is in the bucket."""
        key_path(key)
        async with self._held as held:
            await self._again(replace(self._upload, key=key), committed, held)

    async def keep(self) -> str | None:
        """See `interfaces.Taken.keep`: on this machine, for in a locked bucket nobody could remove it again."""
        async with self._held:
            kept = await self._spool.keep(self._upload.content, self.sha256)
        return f"{kept} on the machine of this run" if kept else None

    async def drop(self) -> None:
        """See `interfaces.Taken.drop`."""
        await self._held.aclose()
