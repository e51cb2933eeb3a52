"""NATS JetStream as a queue: a durable pull consumer on a work-queue stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Self

import anyio
import msgspec
from nats.aio.msg import Msg
from nats.js.api import Header, RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.interfaces import Fleet
from bulkfetch.models import DeadLetter, Lease, QueueStats
from bulkfetch.queues.jetstream.address import NatsAccess, NatsAddress
from bulkfetch.queues.jetstream.connection import ANSWER_TIMEOUT, Connection
from bulkfetch.queues.jetstream.errors import NO_MESSAGE, is_queued_already
from bulkfetch.queues.jetstream.pull import Pull
from bulkfetch.queues.jetstream.releases import Returns
from bulkfetch.queues.jetstream.setup import CONSUMER, StreamNames, check_streams, ensure_consumer, ensure_streams
from bulkfetch.queues.jetstream.shared_rate import JetStreamFleet
from bulkfetch.retrying import persisting

ACK_TIMEOUT = 2.0
_IN_FLIGHT = 256
_ROOM = 4096
"""Bytes of a dead letter beside the message that it keeps."""

_FREE: Mapping[str, str] = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
"""Let the server refuse a message whose subject holds one, however the stream is set up."""

_STARTING = 2.0
_SETTLING = 2.0
_LOOK_AGAIN = 0.1


class JetStreamQueue:
    """The `Queue` on a JetStream stream; made by `open`."""

    def __init__(self, connection: Connection, stream: str, notify: Listener) -> None:
        self.name = connection.name
        self.lease_seconds = 0.0
        self._names = StreamNames(stream)
        self._connection = connection
        self._client = connection.client
        self._js = connection.js
        self._notify = notify
        self._pull = Pull(connection, stream, CONSUMER)
        self._returns = Returns(connection, self._names.returns)
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
        async with Connection.open(address, access, notify) as connection:
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
        """See `interfaces.Queue.put`. An ID that is still queued, or in a worker's hands, is refused by the server;
        what a call that failed has queued counts as new in the call that repeats it."""
        new, before = 0, frozenset(self._put_before)
        for start in range(0, len(messages), _IN_FLIGHT):
            new += await self._put_some(messages[start : start + _IN_FLIGHT], before)
        self._put_before.clear()
        return new

    async def _put_some(self, messages: Sequence[tuple[str, bytes]], before: frozenset[str]) -> int:
        puts = (self._put(invoice_id, body) for invoice_id, body in messages)
        # All of them to their end: one that went on by itself would count nowhere.
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
        """See `interfaces.Queue.fetch`. To be shielded from cancellation: what arrives meanwhile would be out of sight
        until the next call, or until the queue is closed."""
        await self._returns.open()
        messages = await self._pull.fetch(limit, wait)
        return await asyncio.gather(*map(self._lease, messages))

    async def _lease(self, message: Msg) -> Lease:
        delivered = _delivered(message)
        counted = delivered - await self._returned(message) if delivered > 1 else 1
        return Lease(message.data, counted, message, redelivered=delivered > 1)

    async def _returned(self, message: Msg) -> int:
        """How many of the deliveries of `message` before this one do not count."""
        delivered, sequence = _delivered(message), message.metadata.sequence.stream
        returned = await self._returns.count(sequence)
        if returned is None:
            # One delivery too many does less harm than a good invoice that is taken for poison.
            return delivered - 1
        if returned >= delivered:
            # Of another message: the stream, or its consumer, was made anew, and counts from the start.
            await self._returns.forget(sequence)
            return 0
        return returned

    async def ack(self, lease: Lease) -> None:
        """See `interfaces.Queue.ack`. Without a connection it is sent when there is one again, and the error says that
        this is not certain."""
        await self._ack(lease)
        message = _message(lease)
        if lease.deliveries < _delivered(message):
            await self._returns.forget(message.metadata.sequence.stream)

    async def _ack(self, lease: Lease) -> None:
        reply = _message(lease).reply
        try:
            with self._connection.asking():
                # Not the message's own `ack_sync`, which refuses a second one.
                await self._client.request(reply, timeout=ACK_TIMEOUT)
        except TransientError:
            if not self._client.is_connected:
                await self._say_later(reply)
                raise
            # What is gone, as its lease had ended and another worker was quicker, gets no answer: is anybody there?
            await self.stats()

    async def _say_later(self, reply: str) -> None:
        if not self._client.is_closed:
            await self._client.publish(reply)

    async def nak(self, lease: Lease, delay: float) -> None:
        """See `interfaces.Queue.nak`."""
        words = b"-NAK" + (b' {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"")
        with self._connection.asking():
            await self._client.publish(_message(lease).reply, words)

    async def give_back(self, lease: Lease, delay: float) -> None:
        """See `interfaces.Queue.give_back`."""
        # The count first: the message may be in the next worker's hands at once.
        await self._returns.add(_message(lease).metadata.sequence.stream)
        await self.nak(lease, delay)

    async def extend(self, leases: Sequence[Lease]) -> None:
        """See `interfaces.Queue.extend`."""
        with self._connection.asking():
            for lease in leases:
                await self._client.publish(_message(lease).reply, b"+WPI")

    async def dead(self, lease: Lease, letter: DeadLetter) -> None:
        """See `interfaces.Queue.dead`. A message that is too large for a letter is replaced by its invoice's ID."""
        words = msgspec.json.encode(letter)
        if len(words) > self._client.max_payload - _ROOM:
            said = f"{letter.message or letter.reason} (the message itself was too large to be kept)"
            words = msgspec.json.encode(msgspec.structs.replace(letter, body=letter.invoice_id, message=said))
        with self._connection.asking():
            await self._js.publish(self._names.dead_subject(letter.invoice_id), words, stream=self._names.dead)
        await self.ack(lease)

    async def stats(self) -> QueueStats:
        """See `interfaces.Queue.stats`: exact. What waits out a delay counts as leased."""
        with self._connection.asking():
            consumer = await self._js.consumer_info(self._names.stream, CONSUMER)
            dead = await self._js.stream_info(self._names.dead)
        return QueueStats(consumer.num_pending or 0, consumer.num_ack_pending or 0, dead.state.messages)

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """See `interfaces.Queue.letters`: those that are there when the first is asked for."""
        with self._connection.asking():
            # One that is queued again while we read, and fails again, is a new one.
            last = (await self._js.stream_info(self._names.dead)).state.last_seq
        sequence = 0
        while message := await self._next_letter(sequence + 1):
            sequence = message.seq or 0
            if sequence > last:
                return
            try:
                letter = msgspec.json.decode(message.data or b"", type=DeadLetter)
            except msgspec.DecodeError:
                self._notify(Note("warning", f"{self._names.dead}: message {sequence} is no dead letter"))
            else:
                yield letter

    async def _next_letter(self, sequence: int) -> RawStreamMsg | None:
        with self._connection.asking():
            return await _found(self._js.get_msg(self._names.dead, sequence, self._names.dead_subjects, next=True))

    async def requeue(self, letter: DeadLetter) -> None:
        """See `interfaces.Queue.requeue`."""
        kept = await self._kept(letter)
        if await self._put_again(letter, kept):
            await self._remove(letter, kept)

    async def forget(self, letter: DeadLetter) -> None:
        """See `interfaces.Queue.forget`."""
        await self._remove(letter, await self._kept(letter))

    async def _kept(self, letter: DeadLetter) -> RawStreamMsg | None:
        with self._connection.asking():
            return await _found(self._js.get_last_msg(self._names.dead, self._names.dead_subject(letter.invoice_id)))

    async def _remove(self, letter: DeadLetter, kept: RawStreamMsg | None) -> None:
        if kept is None or kept.seq is None:
            return
        with self._connection.asking():
            # Only up to the one that was read: its invoice may have failed again meanwhile.
            subject = self._names.dead_subject(letter.invoice_id)
            await self._js.purge_stream(self._names.dead, seq=kept.seq + 1, subject=subject)

    async def _put_again(self, letter: DeadLetter, kept: RawStreamMsg | None) -> bool:
        """Whether a message is queued for `letter` that is not the one it was written for: a worker puts the letter
        first, and only then the message away. If that worker died in between, the letter is left as it is."""
        until = anyio.current_time() + _SETTLING
        while not await self.put([(letter.invoice_id, letter.body.encode())]):
            with self._connection.asking():
                queued = await _found(self._js.get_last_msg(self._names.stream, self._names.subject(letter.invoice_id)))
            if queued is not None and (kept is None or _is_newer(queued, kept)):
                return True
            if anyio.current_time() > until:
                return False
            await anyio.sleep(_LOOK_AGAIN)
        return True

    def fleet(
        self, name: str, *, rate: float, patience: float, on_pause: Callable[[float], None]
    ) -> AbstractAsyncContextManager[Fleet | None]:
        """See `interfaces.Queue.fleet`: on a key-value bucket beside the stream."""
        return JetStreamFleet.open(
            self._connection, self._names.state, name=name, rate=rate, patience=patience, on_pause=on_pause
        )


async def _found(answer: Awaitable[RawStreamMsg]) -> RawStreamMsg | None:
    """The message asked for; None if there is none, while the stream is there."""
    try:
        return await answer
    except NotFoundError as error:
        if error.err_code != NO_MESSAGE:
            raise
        return None


def _is_newer(queued: RawStreamMsg, kept: RawStreamMsg) -> bool:
    return queued.time is not None and kept.time is not None and queued.time > kept.time


def _delivered(message: Msg) -> int:
    return message.metadata.num_delivered or 1


def _message(lease: Lease) -> Msg:
    assert isinstance(lease.handle, Msg)  # noqa: S101 - this driver made the lease
    return lease.handle
