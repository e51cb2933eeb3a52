"""Reads an archive in a bucket back: by the store's own checksums where it has them, else by download."""

import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Self, TypeVar

import anyio
import obstore

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.models import ObjectMeta, ReadBack
from bulkfetch.net.gate import Gate
from bulkfetch.net.sessions import json_session
from bulkfetch.retrying import persisting
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.checksums import Checksums
from bulkfetch.stores.bucket.errors import bucket_errors
from bulkfetch.stores.bucket.objects import BucketObjects
from bulkfetch.stores.bucket.spool import MIB

_TRIES = 20
"""How often one request is made; how long an outage may last is for the gate to say."""

_QUICK = MIB // 4
"""Bytes that are hashed before a thread would have begun."""

_T = TypeVar("_T")


class BucketReader:
    """Keeps the contract of `interfaces.Reader` for a bucket."""

    at_once = 1

    def __init__(self, bucket: Bucket, gate: Gate, checksums: Checksums | None, *, answer_seconds: float) -> None:
        self._name = bucket.name
        self._objects = bucket.objects
        self._lister = BucketObjects(bucket)
        self._gate = gate
        self._checksums = checksums
        self._answer_seconds = answer_seconds

    @classmethod
    @asynccontextmanager
    async def open(
        cls, bucket: Bucket, *, gate: Gate, connections: int, download: bool, answer_seconds: float
    ) -> AsyncIterator[Self]:
        """The archive in `bucket`. With `download` no checksum of the store's is believed."""
        async with json_session(connections=connections) as session:
            checksums = None if download else Checksums(bucket, session, answer_seconds=answer_seconds)
            yield cls(bucket, gate, checksums, answer_seconds=answer_seconds)

    def listing(self, ignored: Callable[[str], bool]) -> Iterator[ObjectMeta]:
        """See `interfaces.Reader.listing`."""
        return (meta for meta in self._lister.list("") if not ignored(meta.key))

    async def sizes(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """See `interfaces.Reader.sizes`."""
        return [await self._persist(partial(self._head, key)) for key in keys]

    async def contents(self, keys: Sequence[str]) -> Sequence[ReadBack | None]:
        """See `interfaces.Reader.contents`."""
        return [await self._persist(partial(self._content, key)) for key in keys]

    async def _persist(self, ask: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            return await persisting(ask, math.inf, attempts=_TRIES)
        except FileNotFoundError:
            return None
        except TransientError as error:
            raise FatalError(str(error)) from None

    async def _head(self, key: str) -> ObjectMeta:
        with await self._gate.enter(), bucket_errors(self._name), anyio.fail_after(self._answer_seconds):
            return ObjectMeta(key, (await obstore.head_async(self._objects, key))["size"])

    async def _content(self, key: str) -> ReadBack:
        if self._checksums is not None and self._checksums.known:
            with await self._gate.enter():
                noted = await self._checksums.ask(key)
            if noted is not None:
                return noted
        with await self._gate.enter():
            return await self._download(key)

    async def _download(self, key: str) -> ReadBack:
        digest, size = hashlib.sha256(), 0
        with bucket_errors(self._name), anyio.fail_after(self._answer_seconds):
            result = await obstore.get_async(self._objects, key)
        stream = aiter(result.stream(min_chunk_size=MIB))
        while True:
            try:
                with bucket_errors(self._name), anyio.fail_after(self._answer_seconds):
                    chunk = bytes(await anext(stream))
            except StopAsyncIteration:
                return ReadBack(size, digest.hexdigest())
            size += len(chunk)
            if len(chunk) > _QUICK:
                await anyio.to_thread.run_sync(digest.update, chunk)
            else:
                digest.update(chunk)
