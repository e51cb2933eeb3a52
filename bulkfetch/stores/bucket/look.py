"""Looks once more at what a run has put: by listing where its objects lie close together, else at each one."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import anyio
import obstore

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.net.gate import Gate
from bulkfetch.retrying import persisting
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.errors import Refused, bucket_errors
from bulkfetch.tasks import ungrouped

PAGE = 1000
"""How many objects one request lists at most."""

WORTH_LISTING = 0.1
"""The least share of a listing that must be objects that were looked for. Below, it costs more than to ask for each."""

DOUBTS = (0.5, 2.0)
"""Seconds before an object that was not there is asked for again: a cache may not know yet of what was just put."""

_LOOKS = 64
_TRIES = 20
"""How often one request is made; how long an outage may last is for the gate to say."""
_LONGEST_REST = 64

_T = TypeVar("_T")


class Looker:
    """Finds the objects that are not in the bucket as they were put there.

    Mutable: `_rest`, for how many groups no listing is tried, which grows with each listing that was not worth it, and
    `_heads_refused`, whether the store refuses to be asked for single objects.
    """

    def __init__(self, bucket: Bucket, gate: Gate, answer_seconds: float) -> None:
        self._name = bucket.name
        self._objects = bucket.objects
        self._gate = gate
        self._answer_seconds = answer_seconds
        self._rest = self._next_rest = 0
        self._heads_refused = False

    async def find_lost(self, sizes: Mapping[str, int]) -> dict[str, int | None]:
        """See `interfaces.Store.find_lost`.

        Raises:
            FatalError: the store does not answer.
        """
        try:
            doubtful = await self._sift(sizes)
            for pause in DOUBTS:
                if not doubtful:
                    break
                await anyio.sleep(pause)
                doubtful = await self._ask_each(doubtful, sizes)
        except TransientError as error:
            raise FatalError(str(error)) from None
        return doubtful

    async def _sift(self, sizes: Mapping[str, int]) -> dict[str, int | None]:
        """Those of `sizes` that a first look does not find."""
        left = sorted(sizes)
        doubtful: list[str] = []
        if self._rest:
            self._rest -= 1
            return await self._ask_each(left, sizes)
        while len(left) >= PAGE * WORTH_LISTING:
            page = await self._page(left[0])
            reach = max(page) if len(page) >= PAGE else None
            covered = [key for key in left if reach is None or key <= reach]
            missed = [key for key in covered if page.get(key) != sizes[key]]
            doubtful += missed
            left = left[len(covered) :]
            if len(covered) - len(missed) < len(page) * WORTH_LISTING:
                self._next_rest = min(2 * self._next_rest + 1, _LONGEST_REST)
                self._rest = self._next_rest
                break
            self._next_rest = 0
        return await self._ask_each([*doubtful, *left], sizes)

    async def _ask_each(self, keys: Iterable[str], sizes: Mapping[str, int]) -> dict[str, int | None]:
        """Those of `keys` that are not there with their size."""
        left = iter(keys)
        other: dict[str, int | None] = {}

        async def ask() -> None:
            for key in left:
                if (size := await self._size_of(key)) != sizes[key]:
                    other[key] = size

        with ungrouped():
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_LOOKS, len(sizes))):
                    tasks.start_soon(ask)
        return other

    async def _size_of(self, key: str) -> int | None:
        if not self._heads_refused:
            try:
                return await self._insist(partial(self._head, key))
            except Refused:
                self._heads_refused = True
        return (await self._page(key)).get(key)

    async def _head(self, key: str) -> int | None:
        try:
            return (await obstore.head_async(self._objects, key))["size"]
        except FileNotFoundError:
            return None

    async def _page(self, first: str) -> Mapping[str, int]:
        """The objects that one request lists from the key `first` on, with their sizes."""
        return await self._insist(partial(self._list, first))

    async def _list(self, first: str) -> Mapping[str, int]:
        # A listing begins behind what it is told: without its last character a key sorts just before itself.
        pages = obstore.list(self._objects, offset=first[:-1] or None, chunk_size=PAGE)
        page = await anext(aiter(pages), ())
        return {meta["path"]: meta["size"] for meta in page}

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        async def once() -> _T:
            with await self._gate.enter(), bucket_errors(self._name):
                async with asyncio.timeout(self._answer_seconds):
                    return await ask()

        try:
            return await once()
        except TransientError:
            # The loop costs as much as the request, and most need but one try.
            return await persisting(once, math.inf, attempts=_TRIES)
