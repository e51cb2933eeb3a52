"""One rate for all workers of a queue: evenly spaced slots, reserved from a cursor that they share.

A worker moves the cursor on by a few slots, by compare-and-set, and then these slots are its own. A worker that dies
leaves at most so many slots unused, and never makes the others exceed the rate. Times are the server's, as the workers'
clocks may differ.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self

import anyio
import msgspec
from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.net.headers import MAX_RETRY_AFTER
from bulkfetch.queues.jetstream.connection import NatsConnection
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

CLOCK_EVERY = 60.0
CLOCK_LOOKS = 3
TTL = 3600.0
_TRY_AGAIN = 0.5
_LONGEST_NAP = 1.0


class _Cursor(msgspec.Struct):
    """Until when slots are taken: seconds since the epoch, by the server's clock."""

    until: float


class _Pause(msgspec.Struct):
    """A pause that `by`, a worker, asks for: `seconds` from `at`, by the server's clock."""

    by: str
    at: float
    seconds: float


class JetStreamSharedRate:
    """The `SharedRate` on the key-value store `store`; made by `open`."""

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
        self._connection = connection
        self._kv = kv
        self._store = store
        self._label = f"the shared rate ({store})"
        self._cursor_key = f"cursor.{name}"
        self._pause_key = f"pause.{name}"
        self._pause_subject = f"bulkfetch.{store}.pause.{name}"
        self._me = secrets.token_hex(6)
        self._rate = rate
        self._patience = patience
        self._on_pause = on_pause
        self._now = asyncio.get_running_loop().time
        self._offset = 0.0
        self._slots: deque[float] = deque()
        self._count = 0
        self._used = 0
        self._last = 0.0
        self._needed = anyio.Event()
        self._changed = anyio.Event()
        self._given_up: str | None = None
        self._cursor = 0.0
        self._revision = 0
        self._lead = 0.0
        self._asked: float | None = None
        self._wanted = anyio.Event()
        self._paused_until = 0.0

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
                await shared._set_clock()
                # Not a watch on the store: a subscription outlives a restart of the server by itself.
                pauses = await connection.client.subscribe(shared._pause_subject, cb=shared._heard)
                await shared._join_pause()
        except TransientError as error:
            raise FatalError(str(error)) from None
        try:
            async with running(shared._keep_slots, shared._tell_pauses, shared._keep_clock):
                yield shared
        finally:
            with anyio.move_on_after(1), suppress(TransientError, FatalError), connection.asking(store):
                await pauses.unsubscribe()

    async def reserve(self) -> float:
        """See `interfaces.SharedRate.reserve`."""
        if not self._rate:
            return self._now()
        while True:
            if self._given_up is not None:
                raise FatalError(self._given_up)
            while self._slots:
                slot = self._slots.popleft()
                if slot >= self._now() - LATE:
                    self._used += 1
                    if self._count >= DENSE and len(self._slots) <= self._count // 2:
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
            self._count = self._next_count()
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
        began = self._now()
        now = began + self._offset
        ahead = self._cursor - now - AHEAD
        if 0.0 < ahead <= ASTRAY + 1.0 / self._rate:
            await anyio.sleep(min(ahead, _LONGEST_NAP))
            await self._read_cursor()
            return False
        count = self._count
        # Where an answer takes long, a slot that begins now would be over before the answer says that it is ours.
        start = now + self._lead if ahead > 0.0 else max(now + self._lead, self._cursor)
        end = start + count / self._rate
        try:
            self._revision = await self._kv.update(
                self._cursor_key, msgspec.json.encode(_Cursor(end)), last=self._revision
            )
        except KeyWrongLastSequenceError:
            await self._read_cursor()
            return False
        self._cursor = end
        self._slots.extend(start - self._offset + number / self._rate for number in range(count))
        took = self._now() - began
        # Slots that were over when the answer came say nothing about how much there is to do.
        self._used, self._last = count if took > LATE else 0, end - self._offset
        self._lead = _lead(self._lead, took)
        return True

    def _next_count(self) -> int:
        """As many slots as this worker is likely to use in time. Slots that it does not use are lost to everybody."""
        most = max(1, round(self._rate * max(RESERVED, 3.0 * self._lead)))
        if not self._last:
            return most
        # A worker that asks long after its last slot has little to do, however many slots it has used.
        busy = self._now() < self._last + LATE
        return min(most, max(1, self._used * (2 if busy else 1)))

    async def _read_cursor(self) -> None:
        try:
            entry = await self._kv.get(self._cursor_key)
        except KeyNotFoundError:
            self._cursor, self._revision = 0.0, 0
        else:
            self._cursor = msgspec.json.decode(entry.value or b"", type=_Cursor).until
            self._revision = entry.revision or 0

    async def _restore(self) -> None:
        """Make the store anew if it was deleted."""
        with suppress(TransientError), self._connection.asking(self._label):
            await self._connection.kv_store(self._store, ttl=TTL)

    def pause(self, seconds: float) -> None:
        """See `interfaces.SharedRate.pause`."""
        self._slots.clear()
        self._asked = max(seconds, self._asked or 0.0)
        self._wanted.set()

    async def _tell_pauses(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            seconds, self._asked = self._asked or 0.0, None
            pause = _Pause(self._me, self._now() + self._offset, seconds)
            # A worker that is not told meets the API's refusal itself.
            with suppress(TransientError, FatalError), self._connection.asking(self._label):
                await self._tell(pause)

    async def _tell(self, pause: _Pause) -> None:
        payload = msgspec.json.encode(pause)
        await self._connection.client.publish(self._pause_subject, payload)
        if pause.at + pause.seconds > self._paused_until:
            self._paused_until = pause.at + pause.seconds
            # For workers that join while it lasts.
            await self._kv.put(self._pause_key, payload)

    async def _heard(self, message: Msg) -> None:
        self._heed(message.data)

    async def _join_pause(self) -> None:
        try:
            entry = await self._kv.get(self._pause_key)
        except KeyNotFoundError:
            return
        self._heed(entry.value or b"")

    def _heed(self, payload: bytes) -> None:
        try:
            pause = msgspec.json.decode(payload, type=_Pause)
        except msgspec.DecodeError:
            return
        left = min(pause.at + pause.seconds - (self._now() + self._offset), MAX_RETRY_AFTER)
        if pause.by != self._me and left > 0:
            self._paused_until = max(self._paused_until, pause.at + pause.seconds)
            self._slots.clear()
            self._on_pause(left)

    async def _keep_clock(self) -> None:
        while True:
            await anyio.sleep(CLOCK_EVERY)
            # Clocks drift slowly: the next time will do.
            with suppress(TransientError, FatalError), self._connection.asking(self._label):
                await self._set_clock()

    async def _set_clock(self) -> None:
        """Learn how far the server's clock is from the event loop's. The error is at most half of the quickest round
        trip."""
        quickest = float("inf")
        for _ in range(CLOCK_LOOKS):
            before = self._now()
            revision = await self._kv.put(f"clock.{self._me}", b"")
            after = self._now()
            try:
                # `get` of the key-value store gives no time.
                entry = await self._connection.js.get_msg(f"KV_{self._store}", revision)
            except NotFoundError:
                continue
            if entry.time is not None and after - before < quickest:
                quickest = after - before
                self._offset = entry.time.timestamp() - (before + after) / 2


def _lead(before: float, took: float) -> float:
    """In how many seconds from now the next slots are to begin. `took` is how long the last answer took, `before` the
    lead so far. It is 0 where slots are good for longer than an answer takes; otherwise it grows at once and shrinks
    slowly."""
    needed = 1.25 * took if took > LATE / 2 else 0.0
    return min(AHEAD, max(needed, 0.9 * before if before > LATE / 10 else 0.0))
