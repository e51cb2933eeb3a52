"""What the workers of a queue share beside its messages: one key-value store, the server's clock, and pauses."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

import anyio
import msgspec
from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.net.headers import MAX_RETRY_AFTER
from bulkfetch.queues.jetstream.connection import NatsConnection

CLOCK_EVERY = 60.0
CLOCK_LOOKS = 3


class ServerClock:
    """The server's time on this worker: `now` is the event loop's, `offset` seconds before the server's.

    Mutable: `offset`, which `keep` brings up to date.
    """

    def __init__(self, connection: NatsConnection, kv: KeyValue, store: str, worker: str) -> None:
        self._connection = connection
        self._kv = kv
        self._store = store
        self._worker = worker
        self.now = asyncio.get_running_loop().time
        self.offset = 0.0

    def servers(self) -> float:
        """Seconds since the epoch, by the server's clock."""
        return self.now() + self.offset

    async def set(self) -> None:
        """Learn how far the server's clock is from the event loop's. The error is at most half of the quickest round
        trip."""
        quickest = float("inf")
        for _ in range(CLOCK_LOOKS):
            before = self.now()
            revision = await self._kv.put(f"clock.{self._worker}", b"")
            after = self.now()
            try:
                # `get` of the key-value store gives no time.
                entry = await self._connection.js.get_msg(f"KV_{self._store}", revision)
            except NotFoundError:
                continue
            if entry.time is not None and after - before < quickest:
                quickest = after - before
                self.offset = entry.time.timestamp() - (before + after) / 2

    async def keep(self) -> None:
        """Set it once a minute, for ever."""
        while True:
            await anyio.sleep(CLOCK_EVERY)
            # Clocks drift slowly: the next time will do.
            with suppress(TransientError, FatalError), self._connection.asking(self._store):
                await self.set()


class _Pause(msgspec.Struct):
    """A pause that `by`, a worker, asks for: `seconds` from `at`, by the server's clock."""

    by: str
    at: float
    seconds: float


class SharedPauses:
    """Pauses that one worker was asked for and all keep.

    Mutable: `_asked`, the pause to tell next, `_wanted`, which wakes the teller, and `_until`, the end of the longest
    pause so far.

    Args:
        on_pause: told for how many seconds from now another worker asks everybody to pause.
    """

    def __init__(
        self,
        connection: NatsConnection,
        kv: KeyValue,
        clock: ServerClock,
        *,
        store: str,
        name: str,
        worker: str,
        on_pause: Callable[[float], None],
    ) -> None:
        self.subject = f"bulkfetch.{store}.pause.{name}"
        self._connection = connection
        self._kv = kv
        self._clock = clock
        self._key = f"pause.{name}"
        self._label = f"the shared rate ({store})"
        self._worker = worker
        self._on_pause = on_pause
        self._asked: float | None = None
        self._wanted = anyio.Event()
        self._until = 0.0

    def ask(self, seconds: float) -> None:
        """Let every other worker pause for `seconds` from now. Does not wait for them."""
        self._asked = max(seconds, self._asked or 0.0)
        self._wanted.set()

    async def tell(self) -> None:
        """Tell the others what was asked for, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            seconds, self._asked = self._asked or 0.0, None
            pause = _Pause(self._worker, self._clock.servers(), seconds)
            # A worker that is not told meets the API's refusal itself.
            with suppress(TransientError, FatalError), self._connection.asking(self._label):
                await self._tell(pause)

    async def _tell(self, pause: _Pause) -> None:
        payload = msgspec.json.encode(pause)
        await self._connection.client.publish(self.subject, payload)
        if pause.at + pause.seconds > self._until:
            self._until = pause.at + pause.seconds
            # For workers that join while it lasts.
            await self._kv.put(self._key, payload)

    async def heard(self, message: Msg) -> None:
        """Take in what another worker has told."""
        self._heed(message.data)

    async def join(self) -> None:
        """Keep a pause that was asked for before this worker came."""
        try:
            entry = await self._kv.get(self._key)
        except KeyNotFoundError:
            return
        self._heed(entry.value or b"")

    def _heed(self, payload: bytes) -> None:
        try:
            pause = msgspec.json.decode(payload, type=_Pause)
        except msgspec.DecodeError:
            return
        left = min(pause.at + pause.seconds - self._clock.servers(), MAX_RETRY_AFTER)
        if pause.by != self._worker and left > 0:
            self._until = max(self._until, pause.at + pause.seconds)
            self._on_pause(left)


def new_worker() -> str:
    """A name for this worker that no other one has."""
    return secrets.token_hex(6)
