"""How often messages came back unused. The server counts every delivery, and forgets none: a worker that is refused by
the API and started again all night would make poison of what it never tried."""

from contextlib import suppress

import anyio
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue

from bulkfetch.errors import TransientError
from bulkfetch.queues.buckets import ensure_bucket
from bulkfetch.queues.connection import Connection

TTL = 30 * 24 * 3600.0
"""Seconds after which a count is forgotten that nobody adds to."""

PATIENCE = 2.0
"""Seconds that an answer is waited for at most."""


class Returns:
    """The counts in the key-value bucket `bucket`, by a message's sequence in its stream. The bucket is looked for, or
    made, when a count is needed.

    Raises (all calls):
        FatalError: the broker refuses.
    """

    def __init__(self, connection: Connection, bucket: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._place = f"the count of returns ({bucket})"
        self._opened: KeyValue | None = None

    async def count(self, sequence: int) -> int:
        """How often the message came back unused.

        Raises:
            TransientError: the broker does not answer.
        """
        with self._connection.asking(self._place):
            try:
                return int((await (await self._kv()).get(str(sequence))).value or b"0")
            except KeyNotFoundError:
                return 0

    async def set(self, sequence: int, count: int) -> None:
        """Remember `count`; where the broker does not answer soon, the count before it holds: who asks wants to end."""
        with suppress(TransientError), anyio.move_on_after(PATIENCE), self._connection.asking(self._place):
            await (await self._kv()).put(str(sequence), b"%d" % count)

    async def forget(self, sequence: int) -> None:
        """The message is gone for good."""
        with suppress(TransientError), self._connection.asking(self._place):
            await (await self._kv()).delete(str(sequence))

    async def _kv(self) -> KeyValue:
        if self._opened is None:
            self._opened = await ensure_bucket(self._connection, self._bucket, ttl=TTL)
        return self._opened
