"""The only place that touches private parts of the NATS client, for what it does not offer.

The parts are those of nats-py 2.16, so `pyproject.toml` allows no other version. A newer version may be allowed once
`tests/unit/queues/jetstream/test_nats_internals.py` passes with it.
"""

from collections.abc import Iterator

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport


class TlsClient(Client):
    """A client that says nothing to a server without TLS. The client itself then goes on in the clear, password
    included."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()


def forget_unsent(client: Client) -> None:
    """Drop what was not sent yet. `Client.close` would write it to a connection that is gone, and leave everything else
    open when that fails."""
    client._pending, client._pending_data_size = [], 0  # noqa: SLF001


def abort(client: Client) -> None:
    """Drop what is left of a closed connection whose peer is silent or gone. `Client.close` waits for the peer for a
    while, and then leaves tasks and socket behind."""
    for subscription in client._subs.values():  # noqa: SLF001
        subscription._stop_processing()  # noqa: SLF001
    transport = client._transport  # noqa: SLF001
    writer = transport._io_writer if isinstance(transport, TcpTransport) else None  # noqa: SLF001
    if writer is not None:
        writer.transport.abort()


def take_arrived(subscription: Subscription) -> Iterator[Msg]:
    """The messages that have arrived and were not taken yet. `next_msg` would wait if there were none."""
    while not subscription._pending_queue.empty():  # noqa: SLF001
        message = subscription._pending_queue.get_nowait()  # noqa: SLF001
        subscription._pending_size -= len(message.data)  # noqa: SLF001
        yield message
