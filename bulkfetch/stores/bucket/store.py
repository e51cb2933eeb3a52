"""A bucket as a store: what `put` returns has been verified, was put under a condition, and is there."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import obstore
from anyio import CancelScope, CapacityLimiter, to_thread
from obstore.exceptions import BaseError

from bulkfetch.errors import FatalError, PermanentError, Reason, TransientError
from bulkfetch.events import Listener
from bulkfetch.interfaces import Body, Committed, Landed
from bulkfetch.keys import key_path
from bulkfetch.models import NO_FIELDS, ObjectMeta, PutResult
from bulkfetch.net.gate import Gate
from bulkfetch.net.sessions import json_session
from bulkfetch.pdf import PdfCheck
from bulkfetch.retrying import persisting
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.errors import bucket_errors, no_bucket
from bulkfetch.stores.bucket.found import Found
from bulkfetch.stores.bucket.locks import UNLOCKED, Lock, LockReader
from bulkfetch.stores.bucket.look import Looker
from bulkfetch.stores.bucket.probe import MARKER, probe, probe_lock
from bulkfetch.stores.bucket.spool import MIB, Content, Spool
from bulkfetch.stores.bucket.tags import speaks_against
from bulkfetch.stores.bucket.taken import BucketTaken, Upload
from bulkfetch.stores.quarantine import Quarantine
from bulkfetch.tasks import ungrouped
from bulkfetch.text import printable

if TYPE_CHECKING:  # obstore gives some of its types to type checkers only
    from obstore import GetResult

ANSWER_SECONDS = 30.0

SLOWEST = 128 * 1024
"""Bytes a second below which an upload is given up, once the time of any answer has passed."""

_LOOKS = 16
_LOCKING_STORES = 64  # one for each end of retention in use; making one takes 10 ms, and each keeps connections
_LINK_LIFE = timedelta(seconds=60)
_LOOK_TRIES = 20
"""How often one `head` is asked; how long an outage may last is for the gate to say."""

# A short process may abort as the interpreter exits, if an obstore call has only just returned
# (pyo3-async-runtimes #40).
_SETTLE_SECONDS = 0.05


class BucketStore:
    """Objects in a bucket. Keeps the contract of `interfaces.Store`; made by `open`.

    Every body goes up as one conditional PutObject, the large ones from a mapped file: a multipart upload knows no
    condition in every store, and would be left behind by a kill.
    """

    cheap_head = False

    def __init__(
        self,
        bucket: Bucket,
        spool: Spool,
        locks: LockReader,
        *,
        gate: Gate,
        utc_now: Callable[[], datetime],
        answer_seconds: float,
    ) -> None:
        self.name = bucket.name
        self._bucket = bucket
        self._objects = bucket.objects
        self._locking = lru_cache(_LOCKING_STORES)(bucket.locking)
        self._spool = spool
        self._locks = locks
        self._gate = gate
        self._utc_now = utc_now
        self._answer_seconds = answer_seconds
        self._looks = CapacityLimiter(_LOOKS)
        self._looker = Looker(bucket, gate, answer_seconds)
        self._tags_tell = True

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        bucket: Bucket,
        *,
        gate: Gate,
        spool: Path,
        quarantine: Quarantine | None = None,
        utc_now: Callable[[], datetime],
        notify: Listener,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> AsyncIterator["BucketStore"]:
        """The store in `bucket`. A probe shows first that it can be written, read and relied on, and locked if that is
        asked for. `notify` is told where locks cannot be read back.

        `spool` is a local directory: bodies of more than 8 MiB wait there for their upload, and so does what no longer
        fits into 64 MiB of memory; what must not be archived is kept in its `quarantine/`, within the bounds that
        `quarantine` sets (None takes its defaults). An upload may take longer than other answers, by what its size
        needs at 128 KiB a second.

        Raises:
            FatalError: bucket or `spool` cannot be used; the message names the fix.
        """
        try:
            new = await probe(bucket, answer_seconds)
            kept = await to_thread.run_sync(Spool, spool, quarantine)
            async with json_session(connections=_LOOKS) as session:
                locks = LockReader(bucket, session, gate, answer_seconds=answer_seconds, notify=notify)
                await locks.learn(MARKER, new=new)
                if bucket.retention is not None:
                    await locks.of_put(await probe_lock(bucket, bucket.retention, answer_seconds), asked=True)
                yield cls(bucket, kept, locks, gate=gate, utc_now=utc_now, answer_seconds=answer_seconds)
        finally:
            with CancelScope(shield=True):
                await anyio.sleep(_SETTLE_SECONDS)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        committed: Committed,
        fields: Mapping[str, str] = NO_FIELDS,
        put_before: dict[str, int] | None = None,
    ) -> int:
        """See `interfaces.Store.put`. On return the object is in the bucket, or its name is known to be taken."""
        key_path(key)
        rule = self._bucket.retention
        retention = rule.retention(fields, self._utc_now()) if rule else None
        async with AsyncExitStack() as held:
            content = await held.enter_async_context(self._spool.receive(body))
            noted = {} if put_before is None else put_before
            upload = Upload(key, content, body.sha256, body.content_type, retention, noted)
            await self._upload(upload, committed, held)
        return 0

    async def head(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """See `interfaces.Store.head`. Waits while the store is out of service, as a put does.

        Raises:
            FatalError: the store does not answer.
        """
        found: dict[str, ObjectMeta | None] = {}

        async def look(key: str) -> None:
            async with self._looks:
                found[key] = await persisting(partial(self._head, key), math.inf, attempts=_LOOK_TRIES)

        try:
            with ungrouped():
                async with anyio.create_task_group() as looks:
                    for key in dict.fromkeys(keys):
                        key_path(key)
                        looks.start_soon(look, key)
        except TransientError as error:
            raise FatalError(str(error)) from None
        return [found[key] for key in keys]

    async def find_lost(self, sizes: Mapping[str, int]) -> Mapping[str, int | None]:
        """See `interfaces.Store.find_lost`. Waits while the store is out of service, as a put does.

        Raises:
            FatalError: the store does not answer.
        """
        return await self._looker.find_lost(sizes)

    async def adopt(self, key: str) -> PutResult | None:
        """See `interfaces.Store.adopt`."""
        key_path(key)
        check = PdfCheck()
        try:
            result = await self._open(key)
            async for chunk in self._chunks(result):
                check.take(chunk)
        except FileNotFoundError:
            return None
        if check.flaw() is not None:
            return None
        lock = await self._locks.of_found(key)
        return self._result(key, Found.of(result), check.sha256, None, lock, adopted=True)

    async def set_aside(self, key: str) -> bool:
        """See `interfaces.Store.set_aside`: to the local spool's quarantine. What is locked stays, and so does what the
        credentials may not delete, or what the quarantine does not take."""
        try:
            data = b"".join([chunk async for chunk in self.get(key)])
        except FileNotFoundError:
            return True
        sha256 = hashlib.sha256(data).hexdigest()
        locked = await self._locks.of_found(key) != UNLOCKED
        kept = await self._spool.keep(Content(data), sha256)
        if locked or kept is None:
            return False
        try:
            with await self._gate.enter(), anyio.fail_after(self._answer_seconds):
                await obstore.delete_async(self._objects, key)
        except (BaseError, TimeoutError):
            return False
        return await self._head(key) is None

    def uri(self, key: str) -> str:
        """See `interfaces.Store.uri`."""
        return self._bucket.uri(key)

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """See `interfaces.Store.get`. Chunks are of 1 MiB or more, the last one shorter."""
        key_path(key)
        async for chunk in self._chunks(await self._open(key)):
            yield chunk

    async def _upload(self, upload: Upload, committed: Committed, held: AsyncExitStack) -> None:
        """Put `upload`, and tell. Where its name is taken, what keeps its body is taken out of `held` and kept on."""
        key = upload.key
        landed: Landed
        permit = await self._gate.enter()
        # Half an upload is worth nothing, and its time is bounded.
        with CancelScope(shield=True):
            with permit:
                made = await self._publish(upload)
                found = await self._compare(upload) if made is None else made
            if made is not None:
                lock = await self._locks.of_put(key, asked=upload.retention is not None)
                landed = self._result(key, made, upload.sha256, upload.content_type, lock, adopted=False)
            else:
                landed = await self._taken(upload, found, held)
        asyncio.get_running_loop().call_soon(committed, landed)

    async def _publish(self, upload: Upload) -> Found | None:
        """The object that `upload` has become; None if its name is taken."""
        key, sha256, size, retention = upload.key, upload.sha256, upload.content.size, upload.retention
        # The answer may get lost on the way from a store that took it: the next try can then meet this body.
        upload.put_before[sha256] = size
        try:
            with bucket_errors(self.name), anyio.fail_after(self._answer_seconds + size / SLOWEST):
                done = await obstore.put_async(
                    self._locking(retention) if retention else self._objects,
                    key,
                    upload.content.data,
                    attributes={"Content-Type": "application/pdf", "sha256": sha256},
                    mode="create",
                    use_multipart=False,
                )
        except FileNotFoundError:
            raise no_bucket(self.name) from None
        except FileExistsError:
            return None
        await self._raise_if_other(upload, done["e_tag"])
        return Found(size, sha256, done["e_tag"], done["version"])

    async def _raise_if_other(self, upload: Upload, e_tag: str | None) -> None:
        """Return if nothing speaks against it that `upload` is in its place, where the store has given it `e_tag`.

        Raises:
            TransientError: there is no object.
            PermanentError: `digest_mismatch`: it is another one.
        """
        if not (self._tags_tell and await speaks_against(e_tag, upload.content.data)):
            return
        try:
            there = await self._digest(upload.key)
        except FileNotFoundError:
            raise TransientError(Reason.STORE_ERROR, f"{self.name}: the store took an object and has none") from None
        if there != upload.sha256:
            raise PermanentError(
                Reason.DIGEST_MISMATCH,
                f"{printable(upload.key, 120)}: the store keeps other bytes (SHA-256 {there[:12]}) than it was given "
                f"({upload.sha256[:12]}); remove that object and run the same command again",
            )
        # Encrypted objects, for one, have tags that say nothing of their bytes.
        self._tags_tell = False

    async def _compare(self, upload: Upload) -> Found:
        """The object that has the name of `upload`, with its SHA-256 as noted, unless its tag speaks against that."""
        key = upload.key
        try:
            with bucket_errors(self.name), anyio.fail_after(self._answer_seconds):
                found = Found.of(await obstore.get_async(self._objects, key, options={"head": True}))
            noted = found.sha256
            doubtful = self._tags_tell and await speaks_against(found.e_tag, upload.content.data)
            there = await self._digest(key) if noted is None or (noted == upload.sha256 and doubtful) else noted
        except FileNotFoundError:
            raise TransientError(Reason.STORE_ERROR, f"{self.name}: an object was there and is gone") from None
        return replace(found, sha256=there)

    async def _taken(self, upload: Upload, found: Found, held: AsyncExitStack) -> BucketTaken:
        """`found` has the same content, or that of an earlier put for this invoice whose answer was lost (some servers
        send another PDF each time); or it is another object."""
        assert found.sha256 is not None  # noqa: S101 - `_compare` has seen to it
        same = upload.put_before.get(found.sha256) == found.size
        content_type = upload.content_type if same else None
        lock = await self._locks.of_found(upload.key)
        there = self._result(upload.key, found, found.sha256, content_type, lock, adopted=True)
        return BucketTaken(upload, there, same, self._upload, self._spool, held.pop_all())

    async def _digest(self, key: str) -> str:
        check = PdfCheck()
        with bucket_errors(self.name), anyio.fail_after(self._answer_seconds):
            result = await obstore.get_async(self._objects, key)
        async for chunk in self._chunks(result):
            check.take(chunk)
        return check.sha256

    def _result(
        self, key: str, found: Found, sha256: str, content_type: str | None, lock: Lock, *, adopted: bool
    ) -> PutResult:
        mode, until = lock
        return PutResult(
            key=key,
            uri=self.uri(key),
            size=found.size,
            sha256=sha256,
            e_tag=found.e_tag,
            content_type=content_type,
            adopted=adopted,
            version_id=found.version_id,
            lock_mode=mode,
            retain_until=until,
        )

    async def _head(self, key: str) -> ObjectMeta | None:
        with await self._gate.enter():
            try:
                with bucket_errors(self.name), anyio.fail_after(self._answer_seconds):
                    meta = await obstore.head_async(self._objects, key)
            except FileNotFoundError:
                return None
        return ObjectMeta(key, meta["size"])

    async def _open(self, key: str) -> "GetResult":
        with await self._gate.enter(), bucket_errors(self.name), anyio.fail_after(self._answer_seconds):
            return await obstore.get_async(self._objects, key)

    async def _chunks(self, result: "GetResult") -> AsyncIterator[bytes]:
        stream = aiter(result.stream(min_chunk_size=MIB))
        while True:
            try:
                with bucket_errors(self.name), anyio.fail_after(self._answer_seconds):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            yield bytes(chunk)
