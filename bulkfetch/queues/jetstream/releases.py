"""How often messages came back untried. The server counts every delivery, and forgets none: a worker that is refused by
the API and started again all night would make poison of what it never tried."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NoStreamResponseError
from nats.js.kv import KeyValue

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.queues.jetstream.connection import Connection
from bulkfetch.retrying import contending

TTL = 30 * 24 * 3600.0
"""Seconds after which a count is forgotten that nobody adds to."""

PATIENCE = 2.0
"""Seconds that an answer is waited for at most: who asks has messages in hand, or wants to end."""

_TRIES = 4
_NO_MESSAGE = "0"

T = TypeVar("T")


class Returns:
    """The counts in the key-value bucket `bucket`, by a message's sequence in its stream.

    But for `open` no call raises: what holds messages can do without a count, and could do nothing about it.
    """

    def __init__(self, connection: Connection, bucket: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._place = f"the count of returns ({bucket})"
        self._opened: KeyValue | None = None

    async def open(self) -> None:
        """Find the bucket, or make it, unless that was done. To be called before any message is in hand: a worker that
        may not write there would otherwise end, and again whenever it is started, with what it holds.

        Raises:
            TransientError: the broker does not answer.
            FatalError: it refuses.
        """
        if self._opened is None:
            with self._connection.asking(self._place):
                kv = await self._connection.kv_store(self._bucket, ttl=TTL)
                await kv.delete(_NO_MESSAGE)
                self._opened = kv

    async def count(self, sequence: int) -> int | None:
        """How often the message came back untried; None if that cannot be known now."""

        async def get(kv: KeyValue) -> int:
            return (await _read(kv, str(sequence)))[0]

        return await self._ask(get)

    async def add(self, sequence: int) -> None:
        """The message comes back untried once more. Several workers may hold it, if leases ended early."""

        async def add(kv: KeyValue) -> None:
            count, revision = await _read(kv, str(sequence))
            await kv.update(str(sequence), b"%d" % (count + 1), last=revision)

        await self._ask(add)

    async def forget(self, sequence: int) -> None:
        """The message is gone for good."""

        async def delete(kv: KeyValue) -> None:
            await kv.delete(str(sequence))

        await self._ask(delete)

    async def _ask(self, call: Callable[[KeyValue], Awaitable[T]]) -> T | None:
        """What `call` comes to; None where the broker does not answer soon, or refuses."""
        with suppress(TransientError, FatalError), anyio.move_on_after(PATIENCE), self._connection.asking(self._place):
            conflict = (KeyWrongLastSequenceError, NoStreamResponseError)
            return await contending(partial(self._call, call), tries=_TRIES, conflict=conflict)
        return None

    async def _call(self, call: Callable[[KeyValue], Awaitable[T]]) -> T:
        if self._opened is None:
            self._opened = await self._connection.kv_store(self._bucket, ttl=TTL)
        try:
            return await call(self._opened)
        except NoStreamResponseError:
            # Somebody has deleted the store: the next try makes it anew.
            self._opened = None
            raise


async def _read(kv: KeyValue, key: str) -> tuple[int, int]:
    """The count under `key`, and the revision that it is of."""
    try:
        entry = await kv.get(key)
    except KeyNotFoundError as error:
        deleted = error.entry
        return 0, (deleted.revision or 0) if deleted else 0
    return int(entry.value or b"0"), entry.revision or 0
