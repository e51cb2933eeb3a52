"""One invoice in a worker's hands, and the worker's permit to burden the servers with it."""

from dataclasses import dataclass, field

import anyio

from bulkfetch.models import Delivery
from bulkfetch.retrying import Effort


class Slot:
    """A worker's place among those that may burden the servers: held from request to last byte, free while the
    object is being made durable, so that the next invoice need not wait for this one's disk."""

    def __init__(self, places: anyio.Semaphore) -> None:
        self._places = places
        self._held = False

    async def hold(self) -> None:
        """Wait for a place, unless one is held."""
        if not self._held:
            await self._places.acquire()
            self._held = True

    def take_over(self) -> None:
        """Hold a place that was acquired for this worker."""
        self._held = True

    def release(self) -> None:
        """Give the place up, if it is held."""
        if self._held:
            self._held = False
            self._places.release()


@dataclass(frozen=True, slots=True)
class Job:
    """One delivery in a worker's hands, with the key its object will have and the account of its cost."""

    delivery: Delivery
    key: str
    effort: Effort = field(default_factory=Effort)
    adopt: bool = False
    last: bool = False
