"""The NATS client's private parts are there and do what is expected of them; another version may have renamed them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import SecureConnWantedError
from support.nats_help import until

from bulkfetch.queues.jetstream.nats_internals import TlsClient, abort, forget_unsent, take_arrived

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (Client, ["_pending", "_pending_data_size", "_subs", "_transport", "_server_info", "_connect_command"]),
        (lambda: Subscription(Client()), ["_pending_queue", "_pending_size", "_stop_processing"]),
        (TcpTransport, ["_io_writer"]),
    ],
    ids=["client", "subscription", "transport"],
)
async def test_the_client_has_them(owner, names) -> None:
    """An attribute that is set without being there would be set in vain, and silently."""
    assert [name for name in names if not hasattr(owner(), name)] == []


@asynccontextmanager
async def connected(nats, client=None, **options) -> AsyncIterator[Client]:
    """A client of the server."""
    client = client or Client()
    try:
        await client.connect(f"nats://{nats.address}", allow_reconnect=False, **options)
        yield client
        await client.close()
    finally:
        abort(client)


async def ignore(message) -> None:
    """Nobody wants it."""


async def test_what_was_not_sent_is_forgotten(nats) -> None:
    """A message that waits to be sent is not sent when the connection is closed."""
    async with connected(nats) as listener:
        heard = await listener.subscribe("heard")
        await listener.flush()
        async with connected(nats) as client:
            await client.publish("heard", b"sent")
            await client.flush()
            await client.publish("heard", b"forgotten")
            assert client.pending_data_size > 0
            forget_unsent(client)
            assert client.pending_data_size == 0
        assert (await heard.next_msg(5)).data == b"sent"
        await listener.flush()
        assert heard.pending_msgs == 0


async def test_an_aborted_connection_is_gone(nats) -> None:
    """Whatever the other side does, the socket is closed, and a subscription's task ends."""
    async with connected(nats) as client:
        subscription = await client.subscribe("anything", cb=ignore)
        task, writer = subscription._wait_for_msgs_task, client._transport._io_writer
        abort(client)
        assert writer.transport.is_closing()
        await until(task.done)


async def test_what_has_arrived_is_taken_at_once(nats) -> None:
    """Messages that nobody asked for yet are given in their order, and are not pending any more."""
    async with connected(nats) as client:
        subscription = await client.subscribe("arrived")
        for body in (b"1", b"22"):
            await client.publish("arrived", body)
        await client.flush()
        await until(lambda: subscription.pending_msgs == 2)
        assert [message.data for message in take_arrived(subscription)] == [b"1", b"22"]
        assert (subscription.pending_msgs, subscription.pending_bytes) == (0, 0)


async def test_nothing_is_said_without_tls(nats) -> None:
    """A server that does not want TLS is not told the password."""
    said: list[Exception] = []

    async def tell(error: Exception) -> None:
        said.append(error)

    with anyio.fail_after(10), pytest.raises(SecureConnWantedError):
        async with connected(nats, TlsClient(), user="u", password="p", error_cb=tell):
            pass
    assert [type(error) for error in said] == [SecureConnWantedError]
