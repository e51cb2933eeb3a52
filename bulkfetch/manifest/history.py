"""What earlier runs stored and what this run has seen, for a run on the event loop."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

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

    async def stored(self, ids: Sequence[str]) -> Mapping[str, Entry]:
        """See `interfaces.History.stored`.

        Raises:
            FatalError: the ledger cannot be read.
        """
        return await self._loop.run_in_executor(self._thread, self._open_run.ledger.stored, ids)

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
