"""Compares what the manifests say of objects with what is there: names and sizes by one walk, contents by reading."""

import random
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from bulkfetch.app.verify_findings import Finding, Findings, Kind
from bulkfetch.errors import PermanentError
from bulkfetch.interfaces import Reader
from bulkfetch.keys import key_path
from bulkfetch.manifest.states import InvoiceStates, Stored
from bulkfetch.models import ObjectMeta, ReadBack
from bulkfetch.tasks import ungrouped

T = TypeVar("T")
Pair = tuple[Stored | None, ObjectMeta | None]

_PAGE = 1000
_BYTES_AT_ONCE = 16 * 1024 * 1024


@dataclass(slots=True)
class Progress:
    """How far a verification is: how many objects it has looked at, of how many; how many of them it has `read`, with
    how many bytes; and of how many the store `noted` the checksum."""

    objects: int = 0
    total_objects: int = 0
    read: int = 0
    bytes: int = 0
    noted: int = 0
    told: Callable[["Progress"], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Choice:
    """Whose contents are read: those of a random `share` of the objects, and of part `part` (from 1) of `parts`. With
    `quick` of none."""

    quick: bool = False
    share: float = 1.0
    part: int = 1
    parts: int = 1
    rng: random.Random = field(default_factory=random.Random)

    @property
    def kind(self) -> str:
        """What it is called."""
        if self.quick:
            return "quick"
        if self.parts > 1:
            return "subset"
        return "sample" if self.share < 1 else "full"

    def takes(self, key: str) -> bool:
        """Whether the object under `key` is read. Each key is in the same part of so many always."""
        if self.quick or (self.parts > 1 and zlib.crc32(key.encode()) % self.parts != self.part - 1):
            return False
        return self.share >= 1 or self.rng.random() < self.share


@dataclass(slots=True, kw_only=True)
class Checker:
    """Checks objects by `reader`, `workers` calls at a time, and adds what is wrong to `findings`."""

    reader: Reader
    findings: Findings
    choice: Choice
    progress: Progress
    workers: int
    _turn: anyio.Lock = field(default_factory=anyio.Lock)

    async def compare(self, stored: Iterator[Sequence[Stored]], listing: Iterable[ObjectMeta]) -> None:
        """Check everything: both go by the order of their keys."""
        pairs = merge((each for page in stored for each in page), listing)
        async with self._reading() as send:
            while batch := await to_thread.run_sync(take, pairs):
                await self._sort(batch, send)

    async def check(self, wanted: Sequence[Stored]) -> None:
        """Check the objects of `wanted` alone."""
        metas = await self.reader.sizes([each.key for each in wanted])
        async with self._reading() as send:
            await self._sort([*zip(wanted, metas, strict=True)], send)

    async def look_again(self, states: InvoiceStates) -> None:
        """Go through what was found once more, by what `states` say now."""
        pages = self.findings.pages(Kind.MISSING, Kind.DAMAGED, Kind.EXTRA)
        while page := await to_thread.run_sync(next, pages, None):
            keys = [finding.key for _, finding in page if is_key(finding.key)]
            expected = await to_thread.run_sync(states.under, keys)
            there = dict(zip(keys, await self.reader.sizes(keys), strict=True))
            judged = [
                finding
                if finding.key not in there
                else await self._judge(expected.get(finding.key), there[finding.key], finding)
                for _, finding in page
            ]
            await to_thread.run_sync(self.findings.replace, page, judged)

    async def _judge(self, stored: Stored | None, meta: ObjectMeta | None, before: Finding) -> Finding | None:
        wrong = judge(stored, meta)
        if wrong is not None or stored is None or before.found_sha256 is None:
            return wrong
        (content,) = await self.reader.contents([stored.key])
        return judge_content(stored, content)

    async def _sort(self, pairs: Sequence[Pair], send: MemoryObjectSendStream[list[Stored]]) -> None:
        wrong: list[Finding] = []
        batch: list[Stored] = []
        size = 0
        for stored, meta in pairs:
            if found := judge(stored, meta):
                wrong.append(found)
            elif stored is not None and self.choice.takes(stored.key):
                batch.append(stored)
                size += stored.size
                if len(batch) >= self.reader.at_once or size >= _BYTES_AT_ONCE:
                    await send.send(batch)
                    batch, size = [], 0
                continue
            self.progress.objects += stored is not None
        if batch:
            await send.send(batch)
        await self.add(wrong)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[MemoryObjectSendStream[list[Stored]]]:
        """What is sent there is read while the block lasts; at its end everything was."""
        send, receive = anyio.create_memory_object_stream[list[Stored]](0)
        with ungrouped():
            async with anyio.create_task_group() as tasks, send, receive:
                for _ in range(self.workers):
                    tasks.start_soon(self._read_all, receive.clone())
                yield send

    async def _read_all(self, batches: MemoryObjectReceiveStream[list[Stored]]) -> None:
        async with batches:
            async for batch in batches:
                await self._read(batch)

    async def _read(self, batch: Sequence[Stored]) -> None:
        contents = await self.reader.contents([stored.key for stored in batch])
        wrong = []
        for stored, content in zip(batch, contents, strict=True):
            self.progress.noted += content is not None and content.noted
            self.progress.bytes += 0 if content is None or content.noted else content.size
            if found := judge_content(stored, content):
                wrong.append(found)
        self.progress.objects += len(batch)
        self.progress.read += len(batch)
        await self.add(wrong)

    async def add(self, wrong: Collection[Finding]) -> None:
        """Take in what is wrong, and tell how far it is."""
        if wrong:
            async with self._turn:
                await to_thread.run_sync(self.findings.add, wrong)
        self.progress.told(self.progress)


def merge(stored: Iterator[Stored], listing: Iterable[ObjectMeta]) -> Iterator[Pair]:
    """Each of `stored` with the object under its key, and each object that is nobody's. Both are in the order of their
    keys' bytes."""
    objects = iter(listing)
    meta = next(objects, None)
    owned = False
    for each in stored:
        place = _bytes(each.key)
        while meta is not None and _bytes(meta.key) < place:
            if not owned:
                yield None, meta
            meta, owned = next(objects, None), False
        there = meta is not None and meta.key == each.key
        owned = owned or there
        yield each, meta if there else None
    while meta is not None:
        if not owned:
            yield None, meta
        meta, owned = next(objects, None), False


def judge(stored: Stored | None, meta: ObjectMeta | None) -> Finding | None:
    """What is wrong with an object by name and size."""
    if stored is None:
        if meta is None:
            return None
        what = "no row names it" if meta.size >= 0 else "no row names it, and it is no regular file"
        return Finding(finding=Kind.EXTRA, key=meta.key, message=what, found_size=max(meta.size, 0))
    said = partial(Finding, key=stored.key, invoice_id=stored.invoice_id, size=stored.size, sha256=stored.sha256)
    if meta is None or meta.size < 0:
        why = "there is no such object" if meta is None else "there is something that is no regular file"
        return said(finding=Kind.MISSING, message=why)
    if meta.size != stored.size:
        why = f"{meta.size:,} bytes are there in place of {stored.size:,}"
        return said(finding=Kind.DAMAGED, message=why, found_size=meta.size)
    return None


def judge_content(stored: Stored, content: ReadBack | None) -> Finding | None:
    """What is wrong with an object by what it holds."""
    if content is None:
        return judge(stored, None)
    if content.flaw is None and (content.size, content.sha256) == (stored.size, stored.sha256):
        return None
    return Finding(
        finding=Kind.DAMAGED,
        key=stored.key,
        message=content.flaw or "its bytes are not those that were stored (SHA-256 differs)",
        invoice_id=stored.invoice_id,
        size=stored.size,
        sha256=stored.sha256,
        found_size=content.size,
        found_sha256=content.sha256,
    )


def is_key(key: str) -> bool:
    """Whether something under `key` could be asked for; names on a disk need not be UTF-8."""
    try:
        key_path(key)
    except PermanentError:
        return False
    return True


def take(pairs: Iterator[T]) -> list[T]:
    """The next ones of `pairs`."""
    return list(islice(pairs, _PAGE))


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
