"""Asks a pull consumer for messages, and knows an empty queue from a silent broker.

The client's own `fetch` (nats-py 2.16) does not: its time-out may mean either. And a message that arrives just as its
time is up stays unseen until the next call or, if there is none, until its lease ends.
"""

import json
from collections import deque
from contextlib import suppress
from itertools import count

import anyio
from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import Header

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.queues.jetstream.connection import NatsConnection
from bulkfetch.queues.jetstream.nats_internals import take_arrived
from bulkfetch.text import printable

GRACE = 3.0
"""Seconds after a request's time is up. A request that the server has not ended by then counts as lost."""

_OVER = ("404", "408")  # nothing there; nothing came in time
_CONFLICT = "409"
_NO_RESPONDERS = "503"
_NS = 1_000_000_000


class Pull:
    """The requests of one worker to the consumer `consumer` of `stream`."""

    def __init__(self, connection: NatsConnection, stream: str, consumer: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._stream = stream
        self._consumer = consumer
        self._inbox = self._client.new_inbox()
        self._numbers = count(1)
        self._incoming: Subscription | None = None
        self._arrived: deque[Msg] = deque()
        self._turn = anyio.Lock()

    async def fetch(self, limit: int, wait: float) -> list[Msg]:
        """Up to `limit` messages; none if none came within `wait` seconds. To be shielded from cancellation.

        Raises:
            TransientError: the broker did not answer.
            FatalError: the consumer is gone, or refuses.
        """
        async with self._turn:
            await self._listen()
            if not self._arrived:
                await self._request(limit, 0.0)
            if not self._arrived:
                await self._request(1, wait)
                if self._arrived and limit > 1:
                    with suppress(TransientError):
                        await self._request(limit - 1, 0.0)
            return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]

    async def close(self) -> None:
        """Hand back the messages that came when nobody asked any more."""
        with suppress(errors.Error, OSError):
            self._take_late()
            for message in self._arrived:
                await message.nak()

    async def _listen(self) -> None:
        if self._incoming is None:
            with self._connection.asking():
                # No limit: we ask for no more than we can take, and what is dropped here would be out of reach.
                self._incoming = await self._client.subscribe(
                    f"{self._inbox}.*", pending_msgs_limit=0, pending_bytes_limit=0
                )
        self._take_late()

    def _take_late(self) -> None:
        """Take in the messages that came after their request was given up."""
        if self._incoming is not None:
            self._arrived += (message for message in take_arrived(self._incoming) if _status(message) is None)

    async def _request(self, batch: int, wait: float) -> None:
        reply = f"{self._inbox}.{next(self._numbers)}"
        terms = {"batch": batch} | ({"expires": int(wait * _NS)} if wait else {"no_wait": True})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        missing = batch
        with self._connection.asking():
            await self._client.publish(subject, json.dumps(terms).encode(), reply)
            deadline = anyio.current_time() + wait + GRACE
            while missing:
                message = await self._next(deadline)
                if _status(message) is None:
                    self._arrived.append(message)
                    missing -= 1
                elif message.subject == reply:
                    await self._ended(message)
                    return

    async def _next(self, deadline: float) -> Msg:
        assert self._incoming is not None  # noqa: S101 - `fetch` listens first
        return await self._incoming.next_msg(max(0.001, deadline - anyio.current_time()))

    async def _ended(self, message: Msg) -> None:
        """Find out why the server ended a request before all was there."""
        status, detail = _status(message), printable((message.headers or {}).get(Header.DESCRIPTION, ""), 200)
        if status in _OVER or (status == _CONFLICT and "maxackpending" in detail.lower()):
            return
        if status not in (_CONFLICT, _NO_RESPONDERS) or "maxrequest" in detail.lower():
            raise FatalError(f"{self._connection.name}: the consumer {self._consumer} refuses: {status} {detail}")
        # Raises if stream or consumer are gone.
        await self._connection.js.consumer_info(self._stream, self._consumer)
        raise TransientError(Reason.CONNECTION, f"{self._connection.name}: {detail or 'no answer from the broker'}")


def _status(message: Msg) -> str | None:
    """The status with which the server ends a request; None for a message of the queue, which has a reply subject."""
    return None if message.reply else (message.headers or {}).get(Header.STATUS)
