"""How a job gets from the producer to a worker that is free: from hand to hand, with nothing waiting in between."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Rendezvous(Generic[T]):
    """Any number of tasks receive what one task sends. An item that was put back is received before new ones. For one
    event loop.

    anyio's memory streams could do it, too, but take four times as long: a turn of the loop on either side, and a
    record of who waits.
    """

    def __init__(self) -> None:
        self._receivers: deque[asyncio.Future[T | None]] = deque()
        self._returned: deque[T] = deque()
        self._sender: asyncio.Future[None] | None = None
        self._closed = False

    async def wait_receiver(self) -> None:
        """Wait until somebody waits to receive."""
        while not self._drop_cancelled():
            self._sender = asyncio.get_running_loop().create_future()
            await self._sender

    def send_nowait(self, item: T) -> bool:
        """Hand `item` to the one who has waited longest; False if nobody waits any more.

        A scope's cancellation reaches that task only at its next await, so `item` is in its hands from here on.
        """
        if not self._drop_cancelled():
            return False
        self._receivers.popleft().set_result(item)
        return True

    def put_back(self, item: T) -> None:
        """Let `item`, which was received before, be received next; it waits here until somebody is free."""
        if not self.send_nowait(item):
            self._returned.append(item)

    async def receive(self) -> T | None:
        """Wait for an item; None if there will be none any more."""
        if self._returned:
            return self._returned.popleft()
        if self._closed:
            return None
        receiver: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._receivers.append(receiver)
        if self._sender is not None and not self._sender.done():
            self._sender.set_result(None)
        return await receiver

    def close(self) -> None:
        """Send nothing any more."""
        self._closed = True
        while self._drop_cancelled():
            self._receivers.popleft().set_result(None)

    def take_returned(self) -> list[T]:
        """What came back and was received by nobody."""
        left = list(self._returned)
        self._returned.clear()
        return left

    def _drop_cancelled(self) -> bool:
        """Drop the receivers at the head that were cancelled; whether somebody waits then."""
        while self._receivers and self._receivers[0].done():
            self._receivers.popleft()
        return bool(self._receivers)
