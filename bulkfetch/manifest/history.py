"""What earlier runs stored and what this run has met, for whoever is on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self

from anyio import to_thread

from bulkfetch.manifest.duplicates import SeenIds
from bulkfetch.manifest.ledger import LedgerIndex
from bulkfetch.manifest.open_run import OpenRun
from bulkfetch.models import Entry


class RunHistory:
    """Keeps the contract of `interfaces.History` over the ledger and the duplicates of `open_run`.

    Each call is done in `thread`, behind what the manifest asked of it before.
    """

    def __init__(self, open_run: OpenRun, thread: ThreadPoolExecutor) -> None:
        self._open_run = open_run
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self.alone = open_run.alone

    async def stored(self, ids: Sequence[str]) -> Mapping[str, Entry]:
        """See `interfaces.History.stored`.

        Raises:
            FatalError: the ledger cannot be read.
        """
        return await self._loop.run_in_executor(self._thread, self._open_run.ledger.stored, ids)

    async def refused(self, invoice_id: str) -> str | None:
        """See `interfaces.History.refused`.

        Raises:
            FatalError: the ledger cannot be read.
        """
        return await self._loop.run_in_executor(self._thread, self._open_run.ledger.refused, invoice_id)

    async def accepted(self, ids: Sequence[str]) -> Mapping[str, str]:
        """See `interfaces.History.accepted`.

        Raises:
            FatalError: the ledger cannot be read.
        """
        return await self._loop.run_in_executor(self._thread, self._open_run.ledger.accepted, ids)

    async def owner(self, key: str) -> str | None:
        """See `interfaces.History.owner`.

        Raises:
            FatalError: the ledger cannot be read.
        """
        return await self._loop.run_in_executor(self._thread, self._open_run.ledger.owner, key)

    async def find_repeats(self, rows: Sequence[tuple[str, int | None]]) -> Mapping[int, int | None]:
        """See `interfaces.History.find_repeats`.

        Raises:
            FatalError: the disk failed.
        """
        return await self._loop.run_in_executor(self._thread, self._open_run.seen.find_repeats, rows)

    async def refresh(self) -> None:
        """See `interfaces.History.refresh`.

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        await self._loop.run_in_executor(self._thread, partial(self._open_run.refresh, time.monotonic()))


class SnapshotHistory:
    """Keeps the contract of `interfaces.History` over an archive that is only looked at.

    What has been stored since it was opened is known after `refresh`. Not for two tasks at once.
    """

    alone = False

    def __init__(self, ledger: LedgerIndex, seen: SeenIds) -> None:
        self._ledger = ledger
        self._seen = seen

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path, *, seen: Path) -> AsyncIterator[Self]:
        """The history of the archive in `root`, where nothing is changed; `seen` is a free name for a scratch file.

        Raises:
            FatalError: a manifest is damaged, or the scratch file cannot be made.
        """
        ledger = await to_thread.run_sync(LedgerIndex.snapshot, root)
        try:
            met = await to_thread.run_sync(SeenIds, seen)
            try:
                yield cls(ledger, met)
            finally:
                met.close()
        finally:
            ledger.close()

    async def stored(self, ids: Sequence[str]) -> Mapping[str, Entry]:
        """See `interfaces.History.stored`."""
        return await to_thread.run_sync(self._ledger.stored, ids)

    async def refused(self, invoice_id: str) -> str | None:
        """See `interfaces.History.refused`."""
        return await to_thread.run_sync(self._ledger.refused, invoice_id)

    async def accepted(self, ids: Sequence[str]) -> Mapping[str, str]:
        """See `interfaces.History.accepted`."""
        return await to_thread.run_sync(self._ledger.accepted, ids)

    async def owner(self, key: str) -> str | None:
        """See `interfaces.History.owner`."""
        return await to_thread.run_sync(self._ledger.owner, key)

    async def owners(self, keys: Sequence[str]) -> Mapping[str, str]:
        """`owner` for each of `keys` that has one."""
        return await to_thread.run_sync(self._owners, keys)

    async def find_repeats(self, rows: Sequence[tuple[str, int | None]]) -> Mapping[int, int | None]:
        """See `interfaces.History.find_repeats`.

        Raises:
            FatalError: the disk failed.
        """
        return await to_thread.run_sync(self._seen.find_repeats, rows)

    async def refresh(self) -> None:
        """See `interfaces.History.refresh`.

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        await to_thread.run_sync(self._ledger.refresh)

    def _owners(self, keys: Sequence[str]) -> Mapping[str, str]:
        found = ((key, self._ledger.owner(key)) for key in keys)
        return {key: owner for key, owner in found if owner is not None}
