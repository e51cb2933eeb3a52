"""NATS JetStream as a queue: a durable pull consumer on a work-queue stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Self

import anyio
from nats.aio.msg import Msg
from nats.js.api import Header, RawStreamMsg
from nats.js.errors import APIError

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.events import Listener
from bulkfetch.interfaces import SharedRate
from bulkfetch.models import DeadLetter, Lease, QueueStats
from bulkfetch.queues.jetstream.address import NatsAddress
from bulkfetch.queues.jetstream.connection import ANSWER_TIMEOUT, NatsConnection
from bulkfetch.queues.jetstream.credentials import NatsAccess
from bulkfetch.queues.jetstream.dead_letters import JetStreamDeadLetters
from bulkfetch.queues.jetstream.errors import is_queued_already, none_if_missing
from bulkfetch.queues.jetstream.pull import Pull
from bulkfetch.queues.jetstream.releases import ReleaseCounter
from bulkfetch.queues.jetstream.setup import CONSUMER, StreamNames, check_streams, ensure_consumer, ensure_streams
from bulkfetch.queues.jetstream.shared_rate import JetStreamSharedRate
from bulkfetch.retrying import persisting, polling

ACK_TIMEOUT = 2.0
_IN_FLIGHT = 256

_FREE: Mapping[str, str] = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
"""Makes the server refuse a message whose subject holds one already, however the stream is set up."""

_STARTING = 2.0
_SETTLING = 2.0
_LOOK_AGAIN = 0.1


class JetStreamQueue:
    """The `Queue` on a JetStream stream; made by `open`."""

    def __init__(self, connection: NatsConnection, stream: str, notify: Listener) -> None:
        self.name = connection.name
        self.lease_seconds = 0.0
        self._names = StreamNames(stream)
        self._connection = connection
        self._client = connection.client
        self._js = connection.js
        self._pull = Pull(connection, stream, CONSUMER)
        self._releases = ReleaseCounter(connection, self._names.releases)
        self._dead_letters = JetStreamDeadLetters(connection, self._names, notify)
        self._put_before: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, environ: Mapping[str, str], *, create: bool, notify: Listener) -> AsyncIterator[Self]:
        """The queue that `url` names. With `create`, streams that are missing are made.

        Raises:
            UsageError: URL or credentials cannot be used.
            FatalError: the server is not reached, does not let us in, or the stream is missing or set up wrongly.
        """
        address = NatsAddress.parse(url)
        access = await anyio.to_thread.run_sync(NatsAccess.of, address, environ)
        async with NatsConnection.open(address, access, notify) as connection:
            queue = cls(connection, address.stream, notify)
            try:
                # A server that has just started may need a moment for its streams.
                await persisting(partial(queue._set_up, create), _STARTING)
            except TransientError as error:
                raise FatalError(f"{error}; is JetStream switched on there (nats-server -js)?") from None
            try:
                yield queue
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(ANSWER_TIMEOUT):
                    await queue._pull.close()

    async def _set_up(self, create: bool) -> None:
        with self._connection.asking():
            if create:
                await ensure_streams(self._js, self._names)
            await check_streams(self._js, self._names)
            self.lease_seconds = await ensure_consumer(self._js, self._names)

    async def put(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """See `interfaces.Queue.put`. The server refuses an ID that is still queued, or in a worker's hands. Messages
        that a failed call has queued count as new in the call that repeats it."""
        new, before = 0, frozenset(self._put_before)
        for start in range(0, len(messages), _IN_FLIGHT):
            new += await self._put_some(messages[start : start + _IN_FLIGHT], before)
        self._put_before.clear()
        return new

    async def _put_some(self, messages: Sequence[tuple[str, bytes]], before: frozenset[str]) -> int:
        puts = (self._put(invoice_id, body) for invoice_id, body in messages)
        # All of them to their end: a put that went on by itself would count nowhere.
        results = await asyncio.gather(*puts, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        new = 0
        for (invoice_id, _), result in zip(messages, results, strict=True):
            new += result is True or (result is False and invoice_id in before)
            if result is True or isinstance(result, TransientError):
                self._put_before.add(invoice_id)
        if failures:
            raise next((error for error in failures if not isinstance(error, TransientError)), failures[0])
        return new

    async def _put(self, invoice_id: str, body: bytes) -> bool:
        """Whether the message is new."""
        with self._connection.asking():
            try:
                subject = self._names.subject(invoice_id)
                await self._js.publish(subject, body, stream=self._names.stream, headers=dict(_FREE))
            except APIError as error:
                if not is_queued_already(error):
                    raise
                return False
        return True

    async def fetch(self, limit: int, wait: float) -> Sequence[Lease]:
        """See `interfaces.Queue.fetch`. To be shielded from cancellation: messages that arrive meanwhile would be out
        of reach until the next call, or until the queue is closed."""
        await self._releases.open()
        messages = await self._pull.fetch(limit, wait)
        return await asyncio.gather(*map(self._lease, messages))

    async def _lease(self, message: Msg) -> Lease:
        delivered = _delivered(message)
        counted = delivered - await self._released(message) if delivered > 1 else 1
        return Lease(message.data, counted, message, redelivered=delivered > 1)

    async def _released(self, message: Msg) -> int:
        """How many of the deliveries of `message` before this one were releases."""
        delivered, sequence = _delivered(message), message.metadata.sequence.stream
        released = await self._releases.count(sequence)
        if released is None:
            # A delivery too many does less harm than a good invoice that is taken for poison.
            return delivered - 1
        if released >= delivered:
            # The count is of another message: the stream or its consumer was made anew, and counts from the start.
            await self._releases.forget(sequence)
            return 0
        return released

    async def ack(self, lease: Lease) -> None:
        """See `interfaces.Queue.ack`. Without a connection the acknowledgement is sent when there is one again, and the
        error says that this is not certain."""
        await self._ack(lease)
        message = _message(lease)
        if lease.deliveries < _delivered(message):
            await self._releases.forget(message.metadata.sequence.stream)

    async def _ack(self, lease: Lease) -> None:
        reply = _message(lease).reply
        try:
            with self._connection.asking():
                # Not the message's own `ack_sync`, which refuses a second one.
                await self._client.request(reply, timeout=ACK_TIMEOUT)
        except TransientError:
            if not self._client.is_connected:
                await self._ack_later(reply)
                raise
            # There is no answer either where another worker has removed the message after the end of this lease. Then
            # a question about the queue is answered.
            await self.stats()

    async def _ack_later(self, reply: str) -> None:
        if not self._client.is_closed:
            await self._client.publish(reply)

    async def nack(self, lease: Lease, delay: float) -> None:
        """See `interfaces.Queue.nack`."""
        payload = b"-NAK" + (b' {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"")
        with self._connection.asking():
            await self._client.publish(_message(lease).reply, payload)

    async def release(self, lease: Lease, delay: float) -> None:
        """See `interfaces.Queue.release`."""
        # The count first: the message may be in the next worker's hands at once.
        await self._releases.add(_message(lease).metadata.sequence.stream)
        await self.nack(lease, delay)

    async def extend(self, leases: Sequence[Lease]) -> None:
        """See `interfaces.Queue.extend`."""
        with self._connection.asking():
            for lease in leases:
                await self._client.publish(_message(lease).reply, b"+WPI")

    async def dead(self, lease: Lease, dead_letter: DeadLetter) -> None:
        """See `interfaces.Queue.dead`. A message too large for a dead letter is replaced by its invoice's ID."""
        await self._dead_letters.put(dead_letter)
        await self.ack(lease)

    async def stats(self) -> QueueStats:
        """See `interfaces.Queue.stats`: exact. What waits out a delay counts as leased."""
        with self._connection.asking():
            consumer = await self._js.consumer_info(self._names.stream, CONSUMER)
            dead = await self._js.stream_info(self._names.dead)
        return QueueStats(consumer.num_pending or 0, consumer.num_ack_pending or 0, dead.state.messages)

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """See `interfaces.Queue.dead_letters`: those that are there when the first is asked for."""
        return self._dead_letters.list()

    async def requeue(self, dead_letter: DeadLetter) -> None:
        """See `interfaces.Queue.requeue`. The dead letter stays where its message is still in the queue: a worker that
        died after it had put the dead letter, and before it had removed the message, has left both."""
        kept = await self._dead_letters.find(dead_letter.invoice_id)
        if await polling(partial(self._put_again, dead_letter, kept), _SETTLING, pause=_LOOK_AGAIN):
            await self._dead_letters.remove(dead_letter.invoice_id, kept)

    async def _put_again(self, dead_letter: DeadLetter, kept: RawStreamMsg | None) -> bool:
        """Whether a message of the invoice is queued that is newer than its dead letter as it is `kept`."""
        if await self.put([(dead_letter.invoice_id, dead_letter.body.encode())]):
            return True
        with self._connection.asking():
            subject = self._names.subject(dead_letter.invoice_id)
            queued = await none_if_missing(self._js.get_last_msg(self._names.stream, subject))
        return queued is not None and (kept is None or _is_newer(queued, kept))

    async def forget(self, dead_letter: DeadLetter) -> None:
        """See `interfaces.Queue.forget`."""
        kept = await self._dead_letters.find(dead_letter.invoice_id)
        await self._dead_letters.remove(dead_letter.invoice_id, kept)

    def shared_rate(
        self, name: str, *, rate: float, patience: float, on_pause: Callable[[float], None]
    ) -> AbstractAsyncContextManager[SharedRate | None]:
        """See `interfaces.Queue.shared_rate`: on a key-value store beside the stream."""
        return JetStreamSharedRate.open(
            self._connection, self._names.state, name=name, rate=rate, patience=patience, on_pause=on_pause
        )


def _is_newer(queued: RawStreamMsg, kept: RawStreamMsg) -> bool:
    return queued.time is not None and kept.time is not None and queued.time > kept.time


def _delivered(message: Msg) -> int:
    return message.metadata.num_delivered or 1


def _message(lease: Lease) -> Msg:
    assert isinstance(lease.handle, Msg)  # noqa: S101 - this driver made the lease
    return lease.handle
