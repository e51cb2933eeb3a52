"""The pre-flight of a bucket: is it there, may we use it, and does it keep what a run relies on?"""

import anyio
import obstore

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.keys import STATE
from bulkfetch.retrying import persisting
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.errors import bucket_errors, no_bucket

MARKER = f"{STATE}/probe"
"""Put once below each prefix and never deleted: in a locked bucket it could not be."""

_CONTENT = b"bulkfetch was here, and found that this bucket keeps what it is given.\n"
_ABSENT = f"{STATE}/absent"
_TRIES = 4
_PATIENCE = 60.0  # seconds


async def probe(bucket: Bucket, answer_seconds: float) -> None:
    """Put the marker, read it back, and show that a second put of it is refused.

    Raises:
        FatalError: the bucket cannot be used for an archive; the message names the fix.
    """
    try:
        await persisting(_Probe(bucket, answer_seconds).run, _PATIENCE, attempts=_TRIES)
    except TransientError as error:
        raise FatalError(str(error)) from error


class _Probe:
    def __init__(self, bucket: Bucket, answer_seconds: float) -> None:
        self._bucket = bucket
        self._answer_seconds = answer_seconds

    async def run(self) -> None:
        try:
            made = await self._create()
        except FileNotFoundError:
            raise no_bucket(self._bucket.name) from None
        if made and await self._create():
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

    async def _create(self) -> bool:
        """Put the marker; False if it is there."""
        try:
            with bucket_errors(self._bucket.name), anyio.fail_after(self._answer_seconds):
                await obstore.put_async(self._bucket.objects, MARKER, _CONTENT, mode="create", use_multipart=False)
        except FileExistsError:
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
