"""The bytes of an input: read by the block, counted, hashed, unpacked."""

import hashlib
import os
import stat
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiofiles
import aiofiles.os
import anyio
from aiofiles.threadpool.binary import AsyncFileIO

from bulkfetch.errors import FatalError
from bulkfetch.sources.files.lines import unreadable
from bulkfetch.text import printable

BLOCK = 64 * 1024
STDIN = 0
GZIP_MAGIC = b"\x1f\x8b"


class BlockReader:
    """An open input, read once from front to back.

    `size` is its length in bytes where it is known beforehand, `count` how many were read.
    """

    def __init__(self, file: AsyncFileIO, name: str, status: os.stat_result) -> None:
        self._file = file
        self._name = name
        self._waits = stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)
        self._hash = hashlib.sha256()
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.count = 0

    async def read(self) -> bytes:
        """The next bytes: at most 64 KiB, of a pipe what it holds at once; none at the end.

        Raises:
            FatalError: they cannot be read.
        """
        try:
            block: bytes | None = None
            while block is None:  # a pipe may have nothing after all
                if self._waits:
                    # A thread in read() could not be cancelled, and would hold up the exit while the pipe is idle.
                    await anyio.wait_readable(self._file.fileno())
                block = await self._file.read(BLOCK)
        except OSError as error:
            raise FatalError(f"source {printable(self._name, 200)}: reading failed: {error.strerror}") from None
        self._hash.update(block)
        self.count += len(block)
        return block

    def sha256(self) -> str:
        """Of the bytes read so far, in lower-case hex."""
        return self._hash.hexdigest()


def _without_waiting(path: str, flags: int) -> int:
    """Open at once: a thread that waits for a pipe's writer could not be cancelled either."""
    return os.open(path, flags | os.O_NONBLOCK)


@asynccontextmanager
async def open_blocks(path: Path | int, name: str) -> AsyncIterator[BlockReader]:
    """The input under `path`, open while the context lasts.

    Raises:
        UsageError: it cannot be opened.
    """
    try:
        file = await aiofiles.open(path, "rb", buffering=0, closefd=path != STDIN, opener=_without_waiting)
    except OSError as error:
        raise unreadable(name, f"it cannot be opened: {error.strerror}") from None
    try:
        yield BlockReader(file, name, await aiofiles.os.stat(file.fileno()))
    finally:
        await file.close()


class Unpacker:
    """Passes plain bytes through, and unpacks gzip (several members as one), at most a block at a time.

    Anything that begins as gzip does is taken for it, whatever its name: no text can.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._gzip = name.lower().endswith(".gz")
        self._head = b""
        self._begun = False
        self._member: zlib._Decompress | None = None
        self._unpacked = False
        self.waiting = 0
        """Bytes that were fed and are not unpacked yet."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, in parts.

        Raises:
            FatalError: this is not gzip, or damaged.
        """
        if not self._begun:
            data = self._head + data
            self._head = b""
            if data == GZIP_MAGIC[:1]:
                self._head = data
                return
            self._begun = True
            self._gzip = self._gzip or data.startswith(GZIP_MAGIC)
        if self._gzip:
            yield from self._inflate(data)
        else:
            yield data

    def finish(self) -> bytes:
        """What is left when the input has ended.

        Raises:
            FatalError: gzip that ends too early.
        """
        if self._gzip and (self._member is not None or not self._unpacked):
            raise self._damaged("it ends too early")
        return self._head

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        try:
            while data or self._member is not None:
                if self._member is None:
                    data = data.lstrip(b"\0")  # padding of the member before
                    if not data:
                        break
                    self._member = zlib.decompressobj(wbits=31)
                part = self._member.decompress(data, BLOCK)
                data = self._member.unconsumed_tail
                if self._member.eof:
                    data = self._member.unused_data
                    self._member = None
                    self._unpacked = True
                self.waiting = len(data)
                if part:
                    yield part
                if not data and len(part) < BLOCK:
                    break
        except zlib.error as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, problem: str) -> FatalError:
        return FatalError(f"source {printable(self._name, 200)}: the gzip data cannot be unpacked: {problem}")
