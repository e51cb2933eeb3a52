"""One rate for all workers of a queue: evenly spaced slots, reserved from a cursor that they share.

A worker moves the cursor on by a few slots, compare-and-set, and then uses these alone; one that dies leaves at most so
many unused, and never makes the others exceed the rate. Times are the server's, as the workers' clocks may differ.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import anyio
import msgspec
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.queues.nats_errors import nats_errors

RESERVED = 0.1
"""Seconds' worth of slots that are reserved together: a dozen requests a second for any rate."""

AHEAD = 2.0
"""Seconds from now up to which slots are reserved: who dies must not leave a hole larger than that."""

LATE = 0.05
"""Seconds for which a slot is good once its time has come: many late ones used together would be a burst."""

CLOCK_EVERY = 60.0
TTL = 3600.0
_TRY_AGAIN = 0.5


class _Cursor(msgspec.Struct):
    """Until when slots are taken: seconds since the epoch, by the server's clock."""

    until: float


class _Pause(msgspec.Struct):
    """A pause that `by`, a worker, asks for: `seconds` from `at`, by the server's clock."""

    by: str
    at: float
    seconds: float


class JetStreamFleet:
    """The `Fleet` on a JetStream key-value bucket; made by `open`."""

    def __init__(
        self,
        js: JetStreamContext,
        kv: KeyValue,
        name: str,
        rate: float,
        patience: float,
        on_pause: Callable[[float], None],
    ) -> None:
        self._js = js
        self._kv = kv
        self._place = f"the shared rate ({kv._name})"  # noqa: SLF001 - the client gives no other way to it
        self._cursor_key = f"cursor.{name}"
        self._pause_key = f"pause.{name}"
        self._me = secrets.token_hex(6)
        self._rate = rate
        self._patience = patience
        self._on_pause = on_pause
        self._now = asyncio.get_running_loop().time
        self._slots: deque[float] = deque()
        self._cursor = 0.0
        self._revision = 0
        self._offset = 0.0
        self._asked: float | None = None
        self._wanted = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        js: JetStreamContext,
        bucket: str,
        *,
        name: str,
        rate: float,
        patience: float,
        on_pause: Callable[[float], None],
    ) -> AsyncIterator[Self]:
        """Join the workers that share `bucket` and `name`, until the block ends.

        Raises:
            TransientError, FatalError: the broker does not answer, or refuses.
        """
        subject = f"bulkfetch.{bucket}.pause.{name}"
        with nats_errors(bucket):
            fleet = cls(js, await _bucket(js, bucket), name, rate, patience, on_pause)
            await fleet._set_clock()
            # Not a watch on the bucket: a subscription outlives a restart of the server by itself.
            pauses = await js._nc.subscribe(subject, cb=fleet._heard)  # noqa: SLF001 - the context's own client
            await fleet._join_pause()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet._tell_pauses, subject, name="fleet-pauses")
            tasks.start_soon(fleet._keep_clock, name="fleet-clock")
            yield fleet
            tasks.cancel_scope.cancel()
        with anyio.move_on_after(1), nats_errors(bucket):
            await pauses.unsubscribe()

    async def reserve(self) -> float:
        """See `interfaces.Fleet.reserve`."""
        if not self._rate:
            return self._now()
        while True:
            while self._slots:
                slot = self._slots.popleft()
                if slot >= self._now() - LATE:
                    return slot
            await self._take_slots()

    async def _take_slots(self) -> None:
        since = self._now()
        while True:
            try:
                with nats_errors(self._place):
                    if await self._move_cursor():
                        return
            except TransientError as error:
                if self._now() - since > self._patience:
                    raise FatalError(f"out of reach for {self._now() - since:.0f} s: {error}") from None
                await anyio.sleep(_TRY_AGAIN)

    async def _move_cursor(self) -> bool:
        """Whether slots were taken; else the cursor was moved by somebody else, or is far ahead."""
        now = self._now() + self._offset
        if self._cursor > now + AHEAD:
            await anyio.sleep(self._cursor - now - AHEAD)
            await self._read_cursor()
            return False
        count = max(1, round(self._rate * RESERVED))
        start = max(now, self._cursor)
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
        return True

    async def _read_cursor(self) -> None:
        try:
            entry = await self._kv.get(self._cursor_key)
        except KeyNotFoundError:
            self._cursor, self._revision = 0.0, 0
        else:
            self._cursor = msgspec.json.decode(entry.value or b"", type=_Cursor).until
            self._revision = entry.revision or 0

    def pause(self, seconds: float) -> None:
        """See `interfaces.Fleet.pause`."""
        self._slots.clear()
        self._asked = max(seconds, self._asked or 0.0)
        self._wanted.set()

    async def _tell_pauses(self, subject: str) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            seconds, self._asked = self._asked or 0.0, None
            words = msgspec.json.encode(_Pause(self._me, self._now() + self._offset, seconds))
            try:
                with nats_errors(self._place):
                    await self._js._nc.publish(subject, words)  # noqa: SLF001 - as above
                    # For those who join while it lasts.
                    await self._kv.put(self._pause_key, words)
            except (TransientError, FatalError):
                continue  # each of the others meets the API's refusal itself

    async def _heard(self, message: Msg) -> None:
        self._heed(message.data)

    async def _join_pause(self) -> None:
        try:
            entry = await self._kv.get(self._pause_key)
        except KeyNotFoundError:
            return
        self._heed(entry.value or b"")

    def _heed(self, words: bytes) -> None:
        try:
            pause = msgspec.json.decode(words, type=_Pause)
        except msgspec.DecodeError:
            return
        left = pause.at + pause.seconds - (self._now() + self._offset)
        if pause.by != self._me and left > 0:
            self._slots.clear()
            self._on_pause(left)

    async def _keep_clock(self) -> None:
        while True:
            await anyio.sleep(CLOCK_EVERY)
            try:
                with nats_errors(self._place):
                    await self._set_clock()
            except (TransientError, FatalError):
                continue  # clocks drift slowly

    async def _set_clock(self) -> None:
        """Learn how far the server's clock is from the event loop's, to half a round trip."""
        before = self._now()
        revision = await self._kv.put(f"clock.{self._me}", b"")
        after = self._now()
        try:
            entry = await self._js.get_msg(self._kv._stream, revision)  # noqa: SLF001 - `get` gives no time
        except NotFoundError:
            return
        if entry.time is not None:
            self._offset = entry.time.timestamp() - (before + after) / 2


async def _bucket(js: JetStreamContext, bucket: str) -> KeyValue:
    try:
        return await js.key_value(bucket)
    except BucketNotFoundError:
        return await js.create_key_value(KeyValueConfig(bucket=bucket, history=1, ttl=TTL, storage=StorageType.FILE))
