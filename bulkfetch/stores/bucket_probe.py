"""The pre-flight of a bucket: is it there, may we use it, and does it keep what a run relies on?"""

from random import Random

import anyio
import obstore

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.retrying import Effort, RetryPolicy, retrying
from bulkfetch.stores.bucket_errors import BucketErrors
from bulkfetch.stores.bucket_url import Bucket
from bulkfetch.stores.directories import PRIVATE

MARKER = f"{PRIVATE}/probe"
"""Put once below each prefix and never deleted: in a locked bucket it could not be."""

ANSWER_SECONDS = 30.0

_CONTENT = b"bulkfetch was here, and found that this bucket keeps what it is given.\n"
_ABSENT = f"{PRIVATE}/absent"
_PATIENCE = RetryPolicy(attempts=4, wait_initial=0.2, wait_max=2.0, timeout=60.0)


async def probe(bucket: Bucket, rng: Random) -> None:
    """Put the marker, read it back, and show that a second put of it is refused.

    Raises:
        FatalError: the bucket cannot be used for an archive; the message names the fix.
    """
    effort = Effort(started=anyio.current_time())
    loop = retrying(effort, _PATIENCE, rng=rng, before_wait=lambda *_: None)
    try:
        await loop(_probe, bucket, BucketErrors(bucket.name))
    except TransientError as error:
        raise FatalError(str(error)) from error


async def _probe(bucket: Bucket, errors: BucketErrors) -> None:
    try:
        made = await _create(bucket, errors)
    except FileNotFoundError:
        raise errors.no_bucket() from None
    if made and await _create(bucket, errors):
        raise FatalError(
            f"{bucket.name}: the store ignores If-None-Match and would let objects be replaced; "
            "use a store that honours conditional puts"
        )
    with errors.mapping(), anyio.fail_after(ANSWER_SECONDS):
        found = await (await obstore.get_async(bucket.objects, MARKER)).bytes_async()
    if bytes(found) != _CONTENT:
        raise FatalError(f"{bucket.uri(MARKER)}: holds other bytes than bulkfetch puts there; choose another prefix")
    try:
        # Without the right to list, "not there" is answered with 403, and nothing could be told apart.
        with errors.mapping(), anyio.fail_after(ANSWER_SECONDS):
            await obstore.head_async(bucket.objects, _ABSENT)
    except FileNotFoundError:
        return
    raise FatalError(f"{bucket.uri(_ABSENT)}: nothing should be there; choose another prefix")


async def _create(bucket: Bucket, errors: BucketErrors) -> bool:
    """Put the marker; False if it is there."""
    try:
        with errors.mapping(), anyio.fail_after(ANSWER_SECONDS):
            await obstore.put_async(bucket.objects, MARKER, _CONTENT, mode="create", use_multipart=False)
    except FileExistsError:
        return False
    return True
