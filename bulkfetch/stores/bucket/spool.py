"""Where a body waits between its last byte and the store: in memory while there is room, else in a nameless file."""

import mmap
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from anyio import to_thread

from bulkfetch.durable import disk_errors, make_directory, replace_file, write_all
from bulkfetch.errors import InvoiceError
from bulkfetch.interfaces import Body
from bulkfetch.stores.quarantine import QUARANTINE, Quarantine

T = TypeVar("T")

MIB = 1024 * 1024
LARGEST_IN_MEMORY = 8 * MIB
MEMORY = 64 * MIB
PIECE = 256 * 1024
"""Bytes that are read before memory is claimed for them."""


@dataclass(frozen=True, slots=True)
class Content:
    """All bytes of a body. A mapped file costs page cache, which the system takes back when it needs it."""

    data: bytes | mmap.mmap

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)

    @property
    def in_memory(self) -> bool:
        """Whether the bytes are held in memory that only this process can give back."""
        return isinstance(self.data, bytes)


class Spool:
    """Receives the bodies of one run.

    Args:
        directory: for temporary files and the quarantine; created where it is missing.
        quarantine: bounds what is kept aside in `quarantine/`; None takes its defaults.
        memory: bytes that all bodies together may hold; what is beyond goes to files at once, so nobody waits for room.

    Raises:
        FatalError: the directory cannot be used.
    """

    def __init__(self, directory: Path, quarantine: Quarantine | None = None, *, memory: int = MEMORY) -> None:
        self._directory = directory
        self._quarantine = quarantine or Quarantine(directory / QUARANTINE)
        self._room = memory
        with self._disk_errors():
            make_directory(directory, 0o700)
            tempfile.TemporaryFile(dir=directory).close()

    @asynccontextmanager
    async def receive(self, body: Body) -> AsyncIterator[Content]:
        """All of `body`, verified, until exit. What `body` raises goes through; if it says `hold`, the bytes are kept.

        Raises:
            FatalError: the disk refuses a temporary file.
        """
        arriving = _Arriving(self)
        try:
            try:
                await arriving.fill(body)
            except InvoiceError as error:
                if error.hold:
                    await self.keep(await arriving.content(), body.sha256)
                raise
            yield await arriving.content()
        finally:
            arriving.forget()

    async def keep(self, content: Content, sha256: str) -> Path | None:
        """Keep `content` aside for a person to look at: durable on return. Where it is; None if it was not kept."""
        return await to_thread.run_sync(_keep, self._quarantine, content.data, sha256)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do `work` on the disk; a cancellation waits for it."""
        with self._disk_errors():
            return await to_thread.run_sync(work)

    def temporary(self) -> IO[bytes]:
        """A new file that has no name: whatever dies, nothing of it is left."""
        return tempfile.TemporaryFile(dir=self._directory, buffering=0)

    def claim(self, size: int) -> bool:
        """Claim `size` bytes of memory, if there are as many."""
        if size > self._room:
            return False
        self._room -= size
        return True

    def free(self, size: int) -> None:
        """Free `size` bytes that were claimed."""
        self._room += size

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors(f"keep bodies that wait for the bucket in {self._directory}")


class _Arriving:
    """One body on its way in. `_claimed` bytes of the spool's memory are its own."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._chunks: list[bytes] = []
        self._held = 0
        self._claimed = 0
        self._file: IO[bytes] | None = None

    async def fill(self, body: Body) -> None:
        """Read `body` to its end."""
        more = True
        while more:
            known = len(self._chunks)
            more = await body.gather(self._chunks, PIECE)
            came = sum(map(len, self._chunks[known:]))
            self._held += came
            if self._file is None and self._held <= LARGEST_IN_MEMORY and self._spool.claim(came):
                self._claimed += came
            elif self._file is None or self._held >= MIB:
                await self._spill()

    async def content(self) -> Content:
        """What arrived."""
        if self._file is None:
            data, self._chunks = b"".join(self._chunks), []
            return Content(data)
        file = await self._spill()
        return Content(await self._spool.in_thread(partial(mmap.mmap, file.fileno(), 0, prot=mmap.PROT_READ)))

    def forget(self) -> None:
        """Give memory and file up; a mapping of it lives on until nobody refers to it."""
        self._spool.free(self._claimed)
        self._claimed = 0
        if self._file is not None:
            self._file.close()

    async def _spill(self) -> IO[bytes]:
        if self._file is None:
            self._file = await self._spool.in_thread(self._spool.temporary)
        await self._spool.in_thread(partial(_append, self._file.fileno(), self._chunks))
        # Emptied, not replaced: the thread's own reference would keep a block alive while the next one gathers.
        self._chunks.clear()
        self._held = 0
        self._spool.free(self._claimed)
        self._claimed = 0
        return self._file


def _append(fd: int, chunks: list[bytes]) -> None:
    for chunk in chunks:
        write_all(fd, chunk)


def _keep(quarantine: Quarantine, data: bytes | mmap.mmap, sha256: str) -> Path | None:
    path = quarantine.place / sha256
    with quarantine.no_harm():
        make_directory(path.parent, 0o700)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if quarantine.admits(directory, sha256, len(data)):
                replace_file(path, data, temporary=path.with_name(f"{sha256}.{os.getpid()}.part"))
                return path
        finally:
            os.close(directory)
    return None
