"""NATS JetStream as a queue: a durable pull consumer on a work-queue stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Self

import anyio
import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import MsgAlreadyAckdError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from bulkfetch.errors import FatalError
from bulkfetch.events import Event, Note
from bulkfetch.interfaces import Fleet
from bulkfetch.models import DeadLetter, Lease, QueueStats
from bulkfetch.queues.fleet import JetStreamFleet
from bulkfetch.queues.nats_errors import ALREADY_QUEUED, nats_errors
from bulkfetch.queues.nats_url import NatsAccess, NatsAddress
from bulkfetch.queues.streams import CONSUMER, StreamNames, check_streams, ensure_consumer, ensure_streams
from bulkfetch.text import safe

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 5.0
ACK_TIMEOUT = 2.0
PING_INTERVAL = 4
"""Seconds between two pings. The second that stays without answer ends the connection, so a line that is dead without
saying so is noticed after about 12 s; the client's own default takes six minutes."""

_PINGS = 2
_IN_FLIGHT = 256


class JetStreamQueue:
    """The `Queue` on a JetStream stream; made by `open`."""

    def __init__(self, address: NatsAddress, client: Client, notify: Callable[[Event], None]) -> None:
        self.name = address.name
        self.lease_seconds = 0.0
        self._names = StreamNames(address.stream)
        self._client = client
        self._js: JetStreamContext = client.jetstream(timeout=ANSWER_TIMEOUT)
        self._notify = notify
        self._pull: JetStreamContext.PullSubscription | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, environ: Mapping[str, str], *, create: bool, notify: Callable[[Event], None]
    ) -> AsyncIterator[Self]:
        """The queue that `url` names. With `create`, streams that are missing are made.

        Raises:
            UsageError: URL or credentials cannot be used.
            FatalError: the server is not reached, does not let us in, or the stream is missing or set up wrongly.
        """
        address = NatsAddress.parse(url)
        access = await anyio.to_thread.run_sync(NatsAccess.of, address, environ)
        client = await _connected(address, access.options, notify)
        try:
            queue = cls(address, client, notify)
            with nats_errors(address.name):
                await queue._set_up(create)
            yield queue
        finally:
            # Not `drain`: after a fetch that found nothing it waits for its whole time-out (nats-py 2.16).
            with anyio.CancelScope(shield=True), anyio.move_on_after(ANSWER_TIMEOUT):
                await _close(client)

    async def _set_up(self, create: bool) -> None:
        if create:
            await ensure_streams(self._js, self._names)
        await check_streams(self._js, self._names)
        self.lease_seconds = await ensure_consumer(self._js, self._names)

    async def put(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """See `interfaces.Queue.put`. An ID that is still queued, or in a worker's hands, is refused by the server."""
        new = 0
        with nats_errors(self.name):
            for start in range(0, len(messages), _IN_FLIGHT):
                some = messages[start : start + _IN_FLIGHT]
                new += sum(await asyncio.gather(*(self._put(invoice_id, body) for invoice_id, body in some)))
        return new

    async def _put(self, invoice_id: str, body: bytes) -> bool:
        try:
            await self._js.publish(self._names.subject(invoice_id), body, stream=self._names.stream)
        except APIError as error:
            if error.description == ALREADY_QUEUED:
                return False
            raise
        return True

    async def fetch(self, limit: int, wait: float) -> Sequence[Lease]:
        """See `interfaces.Queue.fetch`."""
        with nats_errors(self.name):
            if self._pull is None:
                self._pull = await self._js.pull_subscribe_bind(CONSUMER, self._names.stream)
            try:
                messages = await self._pull.fetch(limit, timeout=wait)
            except TimeoutError:
                # Nothing there, or nobody who could say so.
                if not self._client.is_connected:
                    raise
                return ()
            except APIError as error:
                await self._look_after(error)
                raise
        return [Lease(message.data, message.metadata.num_delivered or 1, message) for message in messages]

    async def _look_after(self, error: APIError) -> None:
        """Find out whether `error` means that the consumer is gone: then the look itself says so."""
        self._pull = None
        if not isinstance(error, NotFoundError):
            await self._js.consumer_info(self._names.stream, CONSUMER)

    async def ack(self, lease: Lease) -> None:
        """See `interfaces.Queue.ack`."""
        with nats_errors(self.name), suppress(MsgAlreadyAckdError):
            try:
                await _message(lease).ack_sync(timeout=ACK_TIMEOUT)
            except TimeoutError:
                # A message that is gone, as its lease had ended and another worker was quicker, gets no answer.
                await self._js.consumer_info(self._names.stream, CONSUMER)

    async def nak(self, lease: Lease, delay: float) -> None:
        """See `interfaces.Queue.nak`."""
        with nats_errors(self.name), suppress(MsgAlreadyAckdError):
            await _message(lease).nak(delay=delay or None)

    async def extend(self, leases: Sequence[Lease]) -> None:
        """See `interfaces.Queue.extend`."""
        with nats_errors(self.name):
            for lease in leases:
                await _message(lease).in_progress()

    async def dead(self, lease: Lease, letter: DeadLetter) -> None:
        """See `interfaces.Queue.dead`."""
        with nats_errors(self.name):
            await self._js.publish(
                self._names.dead_subject(letter.invoice_id), msgspec.json.encode(letter), stream=self._names.dead
            )
        await self.ack(lease)

    async def stats(self) -> QueueStats:
        """See `interfaces.Queue.stats`: exact. What waits out a delay counts as leased."""
        with nats_errors(self.name):
            consumer = await self._js.consumer_info(self._names.stream, CONSUMER)
            dead = await self._js.stream_info(self._names.dead)
        return QueueStats(consumer.num_pending or 0, consumer.num_ack_pending or 0, dead.state.messages)

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """See `interfaces.Queue.letters`."""
        sequence = 0
        while True:
            with nats_errors(self.name):
                try:
                    message = await self._js.get_msg(
                        self._names.dead, sequence + 1, subject=self._names.dead_subjects, next=True
                    )
                except NotFoundError:
                    return
            sequence = message.seq or 0
            try:
                letter = msgspec.json.decode(message.data or b"", type=DeadLetter)
            except msgspec.DecodeError:
                self._notify(Note("warning", f"{self._names.dead}: message {sequence} is no dead letter"))
            else:
                yield letter

    async def requeue(self, letter: DeadLetter) -> None:
        """See `interfaces.Queue.requeue`."""
        await self.put([(letter.invoice_id, letter.body.encode())])
        with nats_errors(self.name):
            await self._js.purge_stream(self._names.dead, subject=self._names.dead_subject(letter.invoice_id))

    def fleet(
        self, name: str, *, rate: float, patience: float, on_pause: Callable[[float], None]
    ) -> AbstractAsyncContextManager[Fleet | None]:
        """See `interfaces.Queue.fleet`: on a key-value bucket beside the stream."""
        return JetStreamFleet.open(
            self._js, self._names.state, name=name, rate=rate, patience=patience, on_pause=on_pause
        )


async def _connected(address: NatsAddress, options: Mapping[str, Any], notify: Callable[[Event], None]) -> Client:
    client = Client()
    trouble: list[str] = []

    async def on_error(error: Exception) -> None:
        # The client's own reporter prints a traceback for every attempt; `batches` tells of what lasts.
        trouble.append(safe(str(error) or type(error).__name__, 200))
        del trouble[:-1]
        if "authorization" in trouble[0].lower() and not client.is_connected:
            attempt.cancel()

    async def on_lost() -> None:
        if not client.is_closed:
            notify(Note("warning", f"{address.name}: the connection is lost; connecting again"))

    async def on_found() -> None:
        notify(Note("info", f"{address.name}: connected again"))

    with anyio.move_on_after(CONNECT_TIMEOUT) as attempt:
        with nats_errors(address.name):
            await client.connect(
                servers=list(address.servers),
                name="bulkfetch",
                error_cb=on_error,
                disconnected_cb=on_lost,
                reconnected_cb=on_found,
                connect_timeout=int(CONNECT_TIMEOUT),
                reconnect_time_wait=1,
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL,
                max_outstanding_pings=_PINGS,
                **options,
            )
    if not client.is_connected:
        with anyio.CancelScope(shield=True):
            await client.close()
        said = f" ({trouble[0]})" if trouble else ""
        raise FatalError(f"{address.name}: no connection{said}; check the address, the credentials and the server")
    return client


async def _close(client: Client) -> None:
    # What was not sent comes back when its lease ends. A transport that breaks at this moment says so by OSError.
    if client.is_connected:
        with suppress(nats.errors.Error, OSError):
            await client.flush(timeout=2)
    with suppress(nats.errors.Error, OSError):
        await client.close()


def _message(lease: Lease) -> Msg:
    assert isinstance(lease.handle, Msg)  # noqa: S101 - this driver made the lease
    return lease.handle
