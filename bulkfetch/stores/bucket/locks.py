"""What a bucket says of the retention of an object (S3 Object Lock), which obstore does not show."""

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import aiohttp
import obstore
from obstore.store import S3Store
from yarl import URL

from bulkfetch.errors import FatalError, OriginError, Reason, Throttled, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.net.gate import Gate
from bulkfetch.net.http_errors import http_errors
from bulkfetch.retrying import persisting
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.errors import bucket_errors
from bulkfetch.stores.bucket.object_lock import MODE_HEADER, UNTIL_HEADER

_LINK_LIFE = timedelta(minutes=10)
_TRIES = 5

Lock = tuple[str | None, str | None]
"""Mode and end of retention as the store words them; both None where there is none, or none is known."""

UNLOCKED: Lock = (None, None)


class _Refused(Exception):
    """The store does not let the lock be read."""


class LockReader:
    """Reads the lock of objects back where there is reason to: a lock was asked for, or is the bucket's default.

    Mutable: `_default`, whether the bucket locks what asks for no lock (None until an object has told), and `_refused`,
    whether reading back was refused: that is told once, and asked no more.
    """

    def __init__(
        self, bucket: Bucket, session: aiohttp.ClientSession, gate: Gate, *, answer_seconds: float, notify: Listener
    ) -> None:
        self._name = bucket.name
        self._objects = bucket.objects if isinstance(bucket.objects, S3Store) else None
        self._ruled = bucket.retention is not None
        self._session = session
        self._gate = gate
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)
        self._notify = notify
        self._default: bool | None = None
        self._refused = False

    async def learn(self, marker: str, *, new: bool) -> None:
        """See by the lock of `marker`, which was put without asking for any, whether the bucket has a default. A marker
        that is not `new` may be older than that, so without a lock it says nothing.
        """
        lock = await self._read(marker, self._ask)
        if lock is not None and (new or lock != UNLOCKED):
            self._default = lock != UNLOCKED

    async def of_put(self, key: str, *, asked: bool) -> Lock:
        """The lock of the object that was just put under `key`; `asked` says that the put asked for one.

        Raises:
            FatalError: the store took the object but not the lock that was asked for; or it does not answer.
        """
        if not asked and self._default is False:
            return UNLOCKED
        lock = await self._read(key, self._ask_behind_gate)
        if lock is None:
            return UNLOCKED
        if asked and lock == UNLOCKED:
            raise FatalError(
                f"{self._name}: the store took an object but not its Object Lock; create the bucket with "
                "Object Lock, and let the credentials read it (s3:GetObjectRetention)"
            )
        if not asked:
            self._default = lock != UNLOCKED
        return lock

    async def of_found(self, key: str) -> Lock:
        """The lock of an object that was there before.

        Raises:
            FatalError: the store does not answer.
        """
        if self._default is False and not self._ruled:
            return UNLOCKED
        return await self._read(key, self._ask_behind_gate) or UNLOCKED

    async def _read(self, key: str, ask: Callable[[S3Store, str], Awaitable[Lock]]) -> Lock | None:
        """The lock of the object under `key`; None if it cannot be known."""
        if self._objects is None:
            return UNLOCKED
        if self._refused:
            return None
        try:
            return await persisting(partial(ask, self._objects, key), math.inf, attempts=_TRIES)
        except (_Refused, TransientError) as error:
            self._refused = isinstance(error, _Refused)
            if self._ruled or self._default:
                self._notify(Note("warning", f"{self._name}: the lock of objects cannot be read back ({error})"))
            return None

    async def _ask_behind_gate(self, objects: S3Store, key: str) -> Lock:
        with await self._gate.enter():
            return await self._ask(objects, key)

    async def _ask(self, objects: S3Store, key: str) -> Lock:
        with bucket_errors(self._name):
            link = URL(await obstore.sign_async(objects, "HEAD", key, _LINK_LIFE), encoded=True)
        with http_errors(self._name):
            async with self._session.head(link, allow_redirects=False, timeout=self._timeout) as response:
                if response.status != 200:
                    raise self._unread(response.status)
                return response.headers.get(MODE_HEADER), response.headers.get(UNTIL_HEADER)

    def _unread(self, status: int) -> TransientError | _Refused:
        said = f"HTTP {status}"
        if status in (429, 503):
            return Throttled(Reason.STORE_ERROR, said, http_status=status)
        if status == 404:  # a cache may know of the object a moment later
            return TransientError(Reason.STORE_ERROR, said, http_status=status)
        if status == 408 or (status >= 500 and status not in (501, 505)):
            return OriginError(Reason.STORE_ERROR, said, http_status=status)
        return _Refused(said)
