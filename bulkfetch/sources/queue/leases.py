"""The leases that a worker holds: extended while their invoices are in work, and handed back."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial

import anyio

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.interfaces import Queue
from bulkfetch.models import Lease


class HeldLeases:
    """The leases of `queue` that this worker holds. No call raises: a lease that cannot be handed back ends by itself,
    which is told to `notify`."""

    def __init__(self, queue: Queue, notify: Listener) -> None:
        self._queue = queue
        self._notify = notify
        self._held: set[Lease] = set()

    def __contains__(self, lease: object) -> bool:
        return lease in self._held

    def add(self, leases: Iterable[Lease]) -> None:
        """Hold `leases` from now on."""
        self._held.update(leases)

    def drop(self, lease: Lease) -> None:
        """Extend `lease` no more."""
        self._held.discard(lease)

    async def keep_alive(self) -> None:
        """Extend every lease three times in its life, for ever: an invoice whose lease ended early is fetched twice."""
        while True:
            await anyio.sleep(self._queue.lease_seconds / 3.0)
            with suppress(TransientError, FatalError):  # other calls meet the same trouble, and tell of it
                await self._queue.extend(list(self._held))

    async def nack(self, lease: Lease, delay: float) -> None:
        """Hand `lease` back for another try after `delay` seconds."""
        await self._hand_back(lease, partial(self._queue.nack, lease, delay))

    async def release(self, leases: Iterable[tuple[Lease, float]]) -> None:
        """Hand back leases that were not tried, each to come again after its own delay in seconds."""
        # All at the same time: a silent broker must not take its time for each.
        async with anyio.create_task_group() as tasks:
            for lease, delay in leases:
                tasks.start_soon(self._hand_back, lease, partial(self._queue.release, lease, delay))

    async def _hand_back(self, lease: Lease, call: Callable[[], Awaitable[None]]) -> None:
        self.drop(lease)
        try:
            await call()
        except (TransientError, FatalError) as error:
            self._notify(Note("warning", f"{self._queue.name}: a message comes back only when its lease ends: {error}"))
