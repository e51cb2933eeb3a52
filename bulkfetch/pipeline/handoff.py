"""How a job gets from the one who has it to a worker that is free, from hand to hand."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Handoff(Generic[T]):
    """Tasks of one event loop take here what one other task gives them; nothing is ever kept in between.

    anyio's memory streams could do it, too, but take four times as long: a turn of the loop on either side, and an
    account of who waits.
    """

    def __init__(self) -> None:
        self._takers: deque[asyncio.Future[T | None]] = deque()
        self._giver: asyncio.Future[None] | None = None
        self._closed = False

    async def wanted(self) -> None:
        """Wait until somebody waits to take."""
        while not self._forget_the_gone():
            self._giver = asyncio.get_running_loop().create_future()
            await self._giver

    def give(self, item: T) -> bool:
        """Hand `item` to the one who has waited longest; False if nobody waits any more.

        A scope's cancellation reaches that task only at its next await, so `item` is in its hands from here on.
        """
        if not self._forget_the_gone():
            return False
        self._takers.popleft().set_result(item)
        return True

    async def take(self) -> T | None:
        """Wait for an item; None if there will be none any more."""
        if self._closed:
            return None
        taker: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        if self._giver is not None and not self._giver.done():
            self._giver.set_result(None)
        return await taker

    def close(self) -> None:
        """Give nothing any more."""
        self._closed = True
        while self._forget_the_gone():
            self._takers.popleft().set_result(None)

    def _forget_the_gone(self) -> bool:
        """Drop those at the head who were cancelled; whether somebody waits then."""
        while self._takers and self._takers[0].done():
            self._takers.popleft()
        return bool(self._takers)
