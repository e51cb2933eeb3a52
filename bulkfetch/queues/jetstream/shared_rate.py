"""One rate for all workers of a queue: evenly spaced slots, reserved from a cursor that they share.

A worker moves the cursor on by a few slots, by compare-and-set, and then these slots are its own. A worker that dies
leaves at most so many slots unused, and never makes the others exceed the rate. Times are the server's, as the workers'
clocks may differ.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import anyio
import msgspec
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.queues.jetstream.connection import NatsConnection
from bulkfetch.queues.jetstream.shared_state import ServerClock, SharedPauses, new_worker
from bulkfetch.retrying import persisting
from bulkfetch.tasks import running

RESERVED = 0.1
"""Seconds' worth of slots that are reserved together at most: a dozen requests a second for any rate."""

AHEAD = 2.0
"""Slots are reserved for at most so many seconds from now. A worker that dies leaves a hole no larger than that."""

ASTRAY = 10.0
"""A cursor that is more than so many seconds further ahead is wrong: the server's clock was set back."""

LATE = 0.05
"""Seconds for which a slot is good once its time has come. Many late slots used together would be a burst."""

DENSE = 4
"""A reservation of so many slots or more is followed by the next one before it is used up. A smaller one means that the
worker has little to do: slots reserved in advance would be wasted."""

TTL = 3600.0
_TRY_AGAIN = 0.5
_LONGEST_NAP = 1.0


class _Cursor(msgspec.Struct):
    """Until when slots are taken: seconds since the epoch, by the server's clock."""

    until: float


@dataclass(slots=True)
class _Position:
    """Where the cursor was seen last: `until` when slots are taken, and the store's `revision` of that. The next slots
    are to begin `lead` seconds from now at the earliest."""

    until: float = 0.0
    revision: int = 0
    lead: float = 0.0


@dataclass(slots=True)
class _Demand:
    """How much this worker needs: it reserved `count` slots the last time, has `used` some of them, and the `last` one
    begins then (0: there was none)."""

    count: int = 0
    used: int = 0
    last: float = 0.0


class JetStreamSharedRate:
    """The `SharedRate` on the key-value store `store`; made by `open`.

    Mutable: `_slots`, the moments that are this worker's; `_demand` and `_cursor`; `_needed` and `_changed`, which wake
    the task that takes slots and those who wait for one; `_given_up`.
    """

    def __init__(
        self,
        connection: NatsConnection,
        kv: KeyValue,
        store: str,
        name: str,
        rate: float,
        patience: float,
        on_pause: Callable[[float], None],
    ) -> None:
        def pause_here(seconds: float) -> None:
            self._slots.clear()
            on_pause(seconds)

        worker = new_worker()
        self._connection = connection
        self._kv = kv
        self._store = store
        self._label = f"the shared rate ({store})"
        self._cursor_key = f"cursor.{name}"
        self._rate = rate
        self._patience = patience
        self._clock = ServerClock(connection, kv, store, worker)
        self._slots: deque[float] = deque()
        self._needed = anyio.Event()
        self._changed = anyio.Event()
        self._given_up: str | None = None
        self._demand = _Demand()
        self._cursor = _Position()
        self._pauses = SharedPauses(
            connection, kv, self._clock, store=store, name=name, worker=worker, on_pause=pause_here
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        connection: NatsConnection,
        store: str,
        *,
        name: str,
        rate: float,
        patience: float,
        on_pause: Callable[[float], None],
    ) -> AsyncIterator[Self]:
        """Join the workers that share `store` and `name`, until the block ends.

        Raises:
            FatalError: the broker does not answer, or refuses.
        """
        try:
            with connection.asking(f"the shared rate ({store})"):
                kv = await connection.kv_store(store, ttl=TTL)
                shared = cls(connection, kv, store, name, rate, patience, on_pause)
                await shared._clock.set()
                # Not a watch on the store: a subscription outlives a restart of the server by itself.
                pauses = await connection.client.subscribe(shared._pauses.subject, cb=shared._pauses.heard)
                await shared._pauses.join()
        except TransientError as error:
            raise FatalError(str(error)) from None
        try:
            async with running(shared._keep_slots, shared._pauses.tell, shared._clock.keep):
                yield shared
        finally:
            with anyio.move_on_after(1), suppress(TransientError, FatalError), connection.asking(store):
                await pauses.unsubscribe()

    async def reserve(self) -> float:
        """See `interfaces.SharedRate.reserve`."""
        if not self._rate:
            return self._clock.now()
        while True:
            if self._given_up is not None:
                raise FatalError(self._given_up)
            while self._slots:
                slot = self._slots.popleft()
                if slot >= self._clock.now() - LATE:
                    self._demand.used += 1
                    if self._demand.count >= DENSE and len(self._slots) <= self._demand.count // 2:
                        self._needed.set()
                    return slot
            self._changed = anyio.Event() if self._changed.is_set() else self._changed
            self._needed.set()
            await self._changed.wait()

    async def _keep_slots(self) -> None:
        """Take slots whenever some are needed. This task alone moves the cursor, so that calls do not cross."""
        while True:
            await self._needed.wait()
            self._needed = anyio.Event()
            self._demand.count = self._next_count()
            try:
                await self._take_slots()
            except FatalError as error:
                self._given_up = str(error)
            self._changed.set()

    async def _take_slots(self) -> None:
        taken = False
        while not taken:
            try:
                taken = await persisting(self._ask_for_slots, self._patience, pause=_TRY_AGAIN)
            except TransientError as error:
                raise FatalError(f"{error}, for {self._patience:.0f} s") from None

    async def _ask_for_slots(self) -> bool:
        try:
            with self._connection.asking(self._label):
                return await self._move_cursor()
        except TransientError:
            await self._restore()
            raise

    async def _move_cursor(self) -> bool:
        """Whether slots were taken. If not, another worker has moved the cursor, or it is far ahead."""
        began = self._clock.now()
        now = began + self._clock.offset
        ahead = self._cursor.until - now - AHEAD
        if 0.0 < ahead <= ASTRAY + 1.0 / self._rate:
            await anyio.sleep(min(ahead, _LONGEST_NAP))
            await self._read_cursor()
            return False
        count = self._demand.count
        # Where an answer takes long, a slot that begins now would be over before the answer says that it is ours.
        start = now + self._cursor.lead if ahead > 0.0 else max(now + self._cursor.lead, self._cursor.until)
        end = start + count / self._rate
        try:
            self._cursor.revision = await self._kv.update(
                self._cursor_key, msgspec.json.encode(_Cursor(end)), last=self._cursor.revision
            )
        except KeyWrongLastSequenceError:
            await self._read_cursor()
            return False
        self._cursor.until = end
        self._slots.extend(start - self._clock.offset + number / self._rate for number in range(count))
        took = self._clock.now() - began
        # Slots that were over when the answer came say nothing about how much there is to do.
        self._demand.used, self._demand.last = count if took > LATE else 0, end - self._clock.offset
        self._cursor.lead = _lead(self._cursor.lead, took)
        return True

    def _next_count(self) -> int:
        """As many slots as this worker is likely to use in time. Slots that it does not use are lost to everybody."""
        most = max(1, round(self._rate * max(RESERVED, 3.0 * self._cursor.lead)))
        if not self._demand.last:
            return most
        # A worker that asks long after its last slot has little to do, however many slots it has used.
        busy = self._clock.now() < self._demand.last + LATE
        return min(most, max(1, self._demand.used * (2 if busy else 1)))

    async def _read_cursor(self) -> None:
        try:
            entry = await self._kv.get(self._cursor_key)
        except KeyNotFoundError:
            self._cursor.until, self._cursor.revision = 0.0, 0
        else:
            self._cursor.until = msgspec.json.decode(entry.value or b"", type=_Cursor).until
            self._cursor.revision = entry.revision or 0

    async def _restore(self) -> None:
        """Make the store anew if it was deleted."""
        with suppress(TransientError), self._connection.asking(self._label):
            await self._connection.kv_store(self._store, ttl=TTL)

    def pause(self, seconds: float) -> None:
        """See `interfaces.SharedRate.pause`."""
        self._slots.clear()
        self._pauses.ask(seconds)


def _lead(before: float, took: float) -> float:
    """In how many seconds from now the next slots are to begin. `took` is how long the last answer took, `before` the
    lead so far. It is 0 where slots are good for longer than an answer takes; otherwise it grows at once and shrinks
    slowly."""
    needed = 1.25 * took if took > LATE / 2 else 0.0
    return min(AHEAD, max(needed, 0.9 * before if before > LATE / 10 else 0.0))
