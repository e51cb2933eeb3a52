"""The pre-flight of a bucket: is it there, may we use it, and does it keep what a run relies on?"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import obstore

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.keys import STATE
from bulkfetch.retrying import persisting
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.errors import Refused, bucket_errors, no_bucket
from bulkfetch.stores.bucket.object_lock import RetentionRule

if TYPE_CHECKING:  # obstore gives this type to type checkers only
    from obstore.store import ObjectStore

T = TypeVar("T")

MARKER = f"{STATE}/probe"
"""Put once below each prefix and never deleted: in a locked bucket it could not be."""

_CONTENT = b"bulkfetch was here, and found that this bucket keeps what it is given.\n"
_ABSENT = f"{STATE}/absent"
_PLAIN = f"{STATE}/probe-plain"
_TRIES = 4
_PATIENCE = 60.0  # seconds


async def probe(bucket: Bucket, answer_seconds: float) -> bool:
    """Put the marker, read it back, and show that a second put of it is refused. Whether the marker is new.

    Raises:
        FatalError: the bucket cannot be used for an archive; the message names the fix.
    """
    probing = _Probe(bucket, answer_seconds)
    await _insist(probing.run)
    return probing.made


async def probe_lock(bucket: Bucket, rule: RetentionRule, answer_seconds: float) -> str:
    """Show that the bucket takes an object that is locked as `rule` says, if only for a day; the key of that object. It
    is put once for each mode.

    Raises:
        FatalError: the bucket takes none; the message names the fix.
    """
    key = f"{MARKER}-{rule.mode.lower()}"
    retention = RetentionRule(rule.mode, 1, "", 0).retention({}, datetime.now(UTC))
    assert retention is not None  # noqa: S101 - tomorrow is to come
    locking = _Probe(bucket, answer_seconds)
    store = bucket.locking(retention)
    try:
        await _insist(partial(locking.create, key, store))
    except FatalError as error:
        raise FatalError(
            f"{bucket.name}: objects cannot be locked as destination.lock_mode = {rule.mode} asks: the bucket needs "
            f"Object Lock, and the credentials s3:PutObjectRetention ({error})"
        ) from None
    return key


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await persisting(call, _PATIENCE, attempts=_TRIES)
    except TransientError as error:
        raise FatalError(str(error)) from error


class _Probe:
    """`made` says whether the marker has been put by this probe."""

    def __init__(self, bucket: Bucket, answer_seconds: float) -> None:
        self._bucket = bucket
        self._answer_seconds = answer_seconds
        self.made = False

    async def run(self) -> None:
        try:
            made = await self.create(MARKER, self._bucket.objects)
            self.made = self.made or made
            ignored = made and await self.create(MARKER, self._bucket.objects)
        except FileNotFoundError:
            raise no_bucket(self._bucket.name) from None
        except Refused as refused:
            raise await self._explained(refused) from None
        if ignored:
            raise FatalError(
                f"{self._bucket.name}: the store ignores If-None-Match and would let objects be replaced; "
                "use a store that honours conditional puts"
            )
        if await self._read() != _CONTENT:
            raise FatalError(
                f"{self._bucket.uri(MARKER)}: holds other bytes than bulkfetch puts there; choose another prefix"
            )
        # Without the right to list, "not there" is answered with 403, and nothing could be told apart.
        if not await self._absent():
            raise FatalError(f"{self._bucket.uri(_ABSENT)}: nothing should be there; choose another prefix")

    async def create(self, key: str, store: "ObjectStore") -> bool:
        """Put the marker's content under `key`; False if there is an object."""
        try:
            with bucket_errors(self._bucket.name), anyio.fail_after(self._answer_seconds):
                await obstore.put_async(store, key, _CONTENT, mode="create", use_multipart=False)
        except FileExistsError:
            return False
        return True

    async def _explained(self, refused: Refused) -> FatalError:
        """`refused`, which a conditional put met, with what the store does not know, where a simpler put shows it."""
        if await self._takes_plain(self._bucket.objects):
            return FatalError(
                f"{refused}: it takes a plain put, but none with If-None-Match, so objects could be replaced; "
                "use a store that honours conditional puts"
            )
        if await self._takes_plain(self._bucket.without_checksums()):
            return FatalError(
                f"{refused}: it takes no put with x-amz-checksum-sha256, by which it would check what arrives; "
                "use a store that knows it"
            )
        return refused

    async def _takes_plain(self, store: "ObjectStore") -> bool:
        try:
            with bucket_errors(self._bucket.name), anyio.fail_after(self._answer_seconds):
                await obstore.put_async(store, _PLAIN, _CONTENT, use_multipart=False)
        except Refused:
            return False
        return True

    async def _read(self) -> bytes:
        with bucket_errors(self._bucket.name), anyio.fail_after(self._answer_seconds):
            return bytes(await (await obstore.get_async(self._bucket.objects, MARKER)).bytes_async())

    async def _absent(self) -> bool:
        try:
            with bucket_errors(self._bucket.name), anyio.fail_after(self._answer_seconds):
                await obstore.head_async(self._bucket.objects, _ABSENT)
        except FileNotFoundError:
            return True
        return False
