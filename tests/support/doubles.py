"""One double for each Protocol that tests need without a real part behind it: mypy holds each to its Protocol, and what
it does is checked in tests/contract."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

import anyio
from msgspec.structs import replace

from bulkfetch.interfaces import Body, Capabilities, History, Manifest, Source
from bulkfetch.models import Delivery, Entry, InputRow, Row

Part = bytes | Exception | Callable[[], Awaitable[object]]


class GivenBody:
    """A body of the parts given: bytes are a chunk, an exception is raised in its place, a function is awaited, without
    a chunk of its own."""

    def __init__(self, *parts: Part, content_type: str | None = "application/pdf") -> None:
        self.content_type = content_type
        self._left = iter(parts)
        self.size = 0
        self._digest = hashlib.sha256()
        self._ended = False

    async def gather(self, chunks: list[bytes], limit: int) -> bool:
        """The parts, in order."""
        enough = self.size + limit
        for part in self._left:
            if isinstance(part, Exception):
                self._ended = getattr(part, "hold", False)
                raise part
            if isinstance(part, bytes):
                self._digest.update(part)
                self.size += len(part)
                chunks.append(part)
                if self.size > enough:
                    return True
            else:
                await part()
        self._ended = True
        return False

    def close(self) -> None:
        """There is nothing to give up."""

    @property
    def sha256(self) -> str:
        """Of all chunks, once they have been read to the end, and not before."""
        assert self._ended, "the digest was asked for before the end"
        return self._digest.hexdigest()


def chunks(data: bytes, size: int = 65_536) -> list[bytes]:
    """`data` as a body's parts, as large as those of a download."""
    return [data[start : start + size] for start in range(0, len(data), size)]


class GivenSource:
    """A source of the rows given, in batches, that counts by line what became of each."""

    name = "given"
    capabilities = Capabilities()

    def __init__(self, rows: Sequence[InputRow], *, batch: int = 9) -> None:
        self.acked: Counter[int | None] = Counter()
        self.nacked: Counter[int | None] = Counter()
        self.delays: list[float] = []
        self.given = self.handed_out = self.returned = 0
        self.not_rows: Mapping[str, int] = {}
        self._rows = list(rows)
        self._batch = batch

    async def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        """All rows, once."""
        while batch := self._rows[self.given : self.given + self._batch]:
            self.given += len(batch)
            self.handed_out += len(batch)
            yield batch

    async def ack(self, input_row: InputRow, row: Row) -> None:
        """Count it; `row` must be of this input row."""
        assert row.line == input_row.line
        await anyio.lowlevel.checkpoint()
        self.acked[input_row.line] += 1

    async def nack(self, input_row: InputRow) -> None:
        """Count it."""
        self.returned += 1
        self.nacked[input_row.line] += 1
        await anyio.lowlevel.checkpoint()

    async def release(self, input_row: InputRow, delay: float = 0.0) -> None:
        """Count it, and keep the delay."""
        self.delays.append(delay)
        self.returned += 1
        self.nacked[input_row.line] += 1
        await anyio.lowlevel.checkpoint()

    def estimate(self) -> int | None:
        """How many rows were given."""
        return len(self._rows)

    def digest(self) -> tuple[str, int] | None:
        """The rows were never bytes."""
        return None


class GivenQueue(GivenSource):
    """A source that hands out again what comes back, and ends when all is acknowledged."""

    capabilities = Capabilities(comes_again=True, repeats=True, shared=True, telling_blocks=True)

    def __init__(self, rows: Sequence[InputRow], *, batch: int = 9) -> None:
        super().__init__(rows, batch=batch)
        self._waiting = list(rows)
        self._left = len(self._waiting)

    async def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        """What waits, until nothing is left."""
        while self._left:
            batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            if batch:
                self.handed_out += len(batch)
                yield batch
            await anyio.sleep(0.001)

    async def ack(self, input_row: InputRow, row: Row) -> None:
        """Count it: it is done with."""
        await super().ack(input_row, row)
        self._left -= 1

    async def nack(self, input_row: InputRow) -> None:
        """Count it, and hand it out again."""
        await super().nack(input_row)
        self._again(input_row)

    async def release(self, input_row: InputRow, delay: float = 0.0) -> None:
        """Count it, and hand it out again at once."""
        await super().release(input_row, delay)
        self._again(input_row)

    def _again(self, input_row: InputRow) -> None:
        self._waiting.append(replace(input_row, redelivered=True) if isinstance(input_row, Delivery) else input_row)

    def estimate(self) -> int | None:
        """Nobody knows how often rows come back."""
        return None


class RecordingManifest:
    """Keeps in `durable` the lines of the rows that `inner` has made durable."""

    def __init__(self, inner: Manifest, durable: set[int | None]) -> None:
        self._inner = inner
        self._durable = durable

    async def append(self, rows: Sequence[Row]) -> None:
        """Append them to `inner`, and then keep their lines."""
        await self._inner.append(rows)
        self._durable.update(row.line for row in rows)

    async def find(self, ids: Collection[str]) -> Sequence[tuple[int, Row]]:
        """What `inner` finds."""
        return await self._inner.find(ids)

    def stop_waiting(self) -> None:
        """Pass it on."""
        self._inner.stop_waiting()


class GivenHistory:
    """Nothing but `entries` is stored, by ID, and nothing is accepted; which IDs were met is kept in memory."""

    alone = True

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self._entries = dict(entries or {})
        self._first: dict[str, int | None] = {}

    async def stored(self, ids: Sequence[str]) -> Mapping[str, Entry]:
        """Those of `entries`."""
        return {invoice_id: self._entries[invoice_id] for invoice_id in ids if invoice_id in self._entries}

    async def refused(self, invoice_id: str) -> str | None:
        """Nothing failed before."""
        return None

    async def accepted(self, ids: Sequence[str]) -> Mapping[str, str]:
        """None of `ids`."""
        return {}

    async def owner(self, key: str) -> str | None:
        """By the keys of `entries`."""
        return next((invoice_id for invoice_id, entry in self._entries.items() if entry.key == key), None)

    async def find_repeats(self, rows: Sequence[tuple[str, int | None]]) -> Mapping[int, int | None]:
        """By a dictionary of all that was met."""
        repeated: dict[int, int | None] = {}
        for index, (invoice_id, line) in enumerate(rows):
            if invoice_id in self._first:
                repeated[index] = self._first[invoice_id]
            self._first.setdefault(invoice_id, line)
        return repeated

    async def refresh(self) -> None:
        """There are no other runs."""


_BODIES: type[Body] = GivenBody
_SOURCES: tuple[type[Source], ...] = (GivenSource, GivenQueue)
_MANIFESTS: type[Manifest] = RecordingManifest
_HISTORIES: type[History] = GivenHistory
"""What mypy holds to the Protocols."""
