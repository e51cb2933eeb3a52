"""A file, or standard input, as a source."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import anyio.lowlevel

from bulkfetch.interfaces import Capabilities
from bulkfetch.models import InputRow, Row
from bulkfetch.sources.files.blocks import STDIN, Unpacker, open_blocks
from bulkfetch.sources.files.lines import LineSplitter, Parser
from bulkfetch.text import printable

ParserFactory = Callable[[], Parser]


class FileSource:
    """Reads `path` block by block and hands out the rows that each block completes.

    Nothing is kept of a row once it is handed out: what is accounted for is known from the manifest.
    """

    capabilities = Capabilities()

    def __init__(self, path: Path | int, parser: ParserFactory) -> None:
        self._spec = "-" if path == STDIN else str(path)
        self.name = "stdin" if path == STDIN else printable(self._spec)
        self._path = path
        self._parser = parser
        self.handed_out = 0
        self.returned = 0
        self._consumed = 0
        self._size: int | None = None
        self._digest: tuple[str, int] | None = None

    async def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        self.handed_out = self.returned = self._consumed = 0
        self._digest = None
        unpacker, splitter, parser = Unpacker(self._spec), LineSplitter(self._spec), self._parser()
        async with open_blocks(self._path, self._spec) as reader:
            self._size = None if self._path == STDIN else reader.size
            while block := await reader.read():
                for part in unpacker.feed(block):
                    self._consumed = reader.count - unpacker.waiting
                    if rows := parser.parse(splitter.feed(part)):
                        self.handed_out += len(rows)
                        yield rows
                    else:
                        # Packed blank lines unpack to a thousand times their size: let the others run meanwhile.
                        await anyio.lowlevel.checkpoint()
            for rows in _rest(unpacker, splitter, parser):
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


def _rest(unpacker: Unpacker, splitter: LineSplitter, parser: Parser) -> Iterator[list[InputRow]]:
    left = splitter.feed(unpacker.finish())
    for rows in (parser.parse(left + splitter.finish()), parser.finish()):
        if rows:
            yield rows
