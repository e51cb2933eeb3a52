"""The bytes of an input: read by the block, counted, hashed, and watched for changes."""

import hashlib
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO
from anyio import to_thread

from bulkfetch.errors import FatalError
from bulkfetch.sources.files.lines import unreadable
from bulkfetch.sources.files.unpack import BLOCK
from bulkfetch.text import printable

STDIN = 0


class BlockReader:
    """An open input, read once from front to back.

    A file that somebody writes to meanwhile is no list to rely on: it must not get shorter, and what was read before a
    change has to be in it still. A file that has only grown is read on.

    `size` is its length in bytes where it is known beforehand, `count` how many were read.
    """

    def __init__(self, file: AsyncFileIO, name: str) -> None:
        self._file = file
        self._name = name
        status = os.fstat(file.fileno())
        self._waits = stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)
        self._hash = hashlib.sha256()
        self._regular = stat.S_ISREG(status.st_mode)
        self._state = _state(status)
        # Standard input may have been read from before.
        self._start = os.lseek(file.fileno(), 0, os.SEEK_CUR) if self._regular else 0
        self.size = status.st_size - self._start if self._regular else None
        self.count = 0

    async def read(self) -> bytes:
        """The next bytes: at most 64 KiB, of a pipe what it holds at once; none at the end.

        Raises:
            FatalError: they cannot be read, or what was read before is not in the file any more.
        """
        try:
            block: bytes | None = None
            while block is None:  # a pipe may have nothing after all
                if self._waits:
                    # A thread in read() could not be cancelled, and would hold up the exit while the pipe is idle.
                    await anyio.wait_readable(self._file.fileno())
                block = await self._file.read(BLOCK)
            self._hash.update(block)
            self.count += len(block)
            if self._regular:
                await self._see_changes()
        except OSError as error:
            raise FatalError(f"source {printable(self._name, 200)}: reading failed: {error.strerror}") from None
        return block

    async def _see_changes(self) -> None:
        state = _state(os.fstat(self._file.fileno()))
        if state == self._state:
            return
        if state[0] < self._state[0] or not await to_thread.run_sync(self._is_still_there):
            raise FatalError(
                f"source {printable(self._name, 200)}: the file was changed while it was read, and is not the "
                "list any more that was begun; let its writer finish, or write a new one and rename it, and run again"
            )
        self._state = state

    def _is_still_there(self) -> bool:
        again, left = hashlib.sha256(), self.count
        while left:
            block = os.pread(self._file.fileno(), min(left, 16 * BLOCK), self._start + self.count - left)
            if not block:
                return False
            again.update(block)
            left -= len(block)
        return again.digest() == self._hash.digest()

    def sha256(self) -> str:
        """Of the bytes read so far, in lower-case hex."""
        return self._hash.hexdigest()


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


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
        # It does not wait, and a cancellation in the middle would leave the file open.
        with anyio.CancelScope(shield=True):
            file = await aiofiles.open(path, "rb", buffering=0, closefd=path != STDIN, opener=_without_waiting)
    except OSError as error:
        raise unreadable(name, f"it cannot be opened: {error.strerror}") from None
    try:
        yield await to_thread.run_sync(BlockReader, file, name)
    finally:
        with anyio.CancelScope(shield=True):
            await file.close()
