"""How often each message was released untried.

The server counts every delivery, and forgets none. Without this count, a worker that the API refuses all night, and
that is started again each time, would make poison of messages that it never tried.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NoStreamResponseError
from nats.js.kv import KeyValue

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.queues.jetstream.connection import NatsConnection
from bulkfetch.retrying import contending

TTL = 30 * 24 * 3600.0
"""Seconds after which a count is forgotten that nobody adds to."""

PATIENCE = 2.0
"""Seconds that an answer is waited for at most: the caller has messages in hand, or wants to end."""

_TRIES = 4
_NO_MESSAGE = "0"

T = TypeVar("T")


class ReleaseCounter:
    """The counts in the key-value store `store`, each under its message's sequence in the stream.

    Only `open` raises. The other calls are made with messages in hand, when nothing could be done about an error.
    """

    def __init__(self, connection: NatsConnection, store: str) -> None:
        self._connection = connection
        self._store = store
        self._label = f"the count of releases ({store})"
        self._opened: KeyValue | None = None

    async def open(self) -> None:
        """Find the store or make it, unless that was done, and write to it once.

        Call this before any message is in hand. A worker without the right to write would otherwise end with messages
        in hand whenever it is started, and each time would count as a delivery.

        Raises:
            TransientError: the broker does not answer.
            FatalError: it refuses.
        """
        if self._opened is None:
            with self._connection.asking(self._label):
                kv = await self._connection.kv_store(self._store, ttl=TTL)
                await kv.delete(_NO_MESSAGE)
                self._opened = kv

    async def count(self, sequence: int) -> int | None:
        """How often the message was released; None if that cannot be known now."""

        async def get(kv: KeyValue) -> int:
            return (await _read(kv, str(sequence)))[0]

        return await self._ask(get)

    async def add(self, sequence: int) -> None:
        """Count one more release of the message. Several workers may do so at a time, if its leases ended early."""

        async def add(kv: KeyValue) -> None:
            count, revision = await _read(kv, str(sequence))
            await kv.update(str(sequence), b"%d" % (count + 1), last=revision)

        await self._ask(add)

    async def forget(self, sequence: int) -> None:
        """Remove the count of a message that is gone for good."""

        async def delete(kv: KeyValue) -> None:
            await kv.delete(str(sequence))

        await self._ask(delete)

    async def _ask(self, call: Callable[[KeyValue], Awaitable[T]]) -> T | None:
        """What `call` returns; None where the broker does not answer soon, or refuses."""
        with suppress(TransientError, FatalError), anyio.move_on_after(PATIENCE), self._connection.asking(self._label):
            conflict = (KeyWrongLastSequenceError, NoStreamResponseError)
            return await contending(partial(self._call, call), tries=_TRIES, conflict=conflict)
        return None

    async def _call(self, call: Callable[[KeyValue], Awaitable[T]]) -> T:
        if self._opened is None:
            self._opened = await self._connection.kv_store(self._store, ttl=TTL)
        try:
            return await call(self._opened)
        except NoStreamResponseError:
            # Somebody has deleted the store: the next try makes it anew.
            self._opened = None
            raise


async def _read(kv: KeyValue, key: str) -> tuple[int, int]:
    """The count under `key`, and its revision, which an update has to name."""
    try:
        entry = await kv.get(key)
    except KeyNotFoundError as error:
        deleted = error.entry
        return 0, (deleted.revision or 0) if deleted else 0
    return int(entry.value or b"0"), entry.revision or 0
