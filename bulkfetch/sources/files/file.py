"""A file, or standard input, as a source."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import anyio.lowlevel

from bulkfetch.interfaces import Capabilities
from bulkfetch.models import InputRow, Row
from bulkfetch.sources.files.blocks import STDIN, open_blocks
from bulkfetch.sources.files.encodings import Recoder
from bulkfetch.sources.files.lines import LineSplitter, Parser
from bulkfetch.sources.files.unpack import Unpacker
from bulkfetch.text import printable


class Reading:
    """One reading of an input: its bytes on their way to rows."""

    def __init__(self, unpacker: Unpacker, recoder: Recoder, splitter: LineSplitter, parser: Parser) -> None:
        self._unpacker = unpacker
        self._recoder = recoder
        self._splitter = splitter
        self._parser = parser

    @property
    def waiting(self) -> int:
        """Bytes that were fed and are not unpacked yet."""
        return self._unpacker.waiting

    @property
    def not_rows(self) -> Mapping[str, int]:
        """How many lines so far were no rows, by kind."""
        return dict(self._parser.not_rows)

    def feed(self, block: bytes) -> Iterator[list[InputRow]]:
        """The rows that each part of `block` completes; it may complete none."""
        for part in self._unpacker.feed(block):
            for text in self._recoder.feed(part):
                yield self._parser.parse(self._splitter.feed(text))

    def finish(self) -> Iterator[list[InputRow]]:
        """The rows that are left when the input has ended."""
        for text in (*self._recoder.feed(self._unpacker.finish()), self._recoder.finish()):
            yield self._parser.parse(self._splitter.feed(text))
        lines, unended = self._splitter.finish()
        yield self._parser.parse(lines)
        yield self._parser.finish(unended)


class FileSource:
    """Reads `path` block by block and hands out the rows that each block completes; `begin` makes a new reading.

    Nothing is kept of a row once it is handed out: what is accounted for is known from the manifest.
    """

    capabilities = Capabilities()

    def __init__(self, path: Path | int, begin: Callable[[], Reading]) -> None:
        self._spec = "-" if path == STDIN else str(path)
        self.name = "stdin" if path == STDIN else printable(self._spec)
        self._path = path
        self._begin = begin
        self.handed_out = 0
        self.returned = 0
        self._reading = begin()
        self._consumed = 0
        self._size: int | None = None
        self._digest: tuple[str, int] | None = None

    @property
    def not_rows(self) -> Mapping[str, int]:
        """See `interfaces.Source.not_rows`."""
        return self._reading.not_rows

    async def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        self.handed_out = self.returned = self._consumed = 0
        self._digest = None
        reading = self._reading = self._begin()
        async with open_blocks(self._path, self._spec) as reader:
            self._size = None if self._path == STDIN else reader.size
            while block := await reader.read():
                for rows in reading.feed(block):
                    self._consumed = reader.count - reading.waiting
                    if rows:
                        self.handed_out += len(rows)
                        yield rows
                    else:
                        # Packed blank lines unpack to a thousand times their size: let the others run meanwhile.
                        await anyio.lowlevel.checkpoint()
            self._consumed = reader.count
            for rows in reading.finish():
                if rows:
                    self.handed_out += len(rows)
                    yield rows
            self._digest = reader.sha256(), reader.count

    async def ack(self, input_row: InputRow, row: Row) -> None:
        """Nothing to do."""

    async def nack(self, input_row: InputRow) -> None:  # noqa: ARG002 - nothing is kept of it
        """Nothing to do but to count."""
        self.returned += 1

    async def release(self, input_row: InputRow, delay: float = 0.0) -> None:  # noqa: ARG002 - as above
        """Nothing to do but to count."""
        self.returned += 1

    def estimate(self) -> int | None:
        """Rows so far, scaled by how much of the file they took; exact at the end."""
        if self._digest is not None:
            return self.handed_out
        if not self.handed_out or self._size is None:
            return None
        return max(self.handed_out, round(self.handed_out * self._size / self._consumed))

    def digest(self) -> tuple[str, int] | None:
        return self._digest
