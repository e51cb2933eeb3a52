"""One connection with a NATS server: how it is made, what its trouble means, and how it is closed."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from random import uniform
from typing import Any, Self

import anyio
from nats import errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.queues.jetstream.address import NatsAccess, NatsAddress
from bulkfetch.queues.jetstream.errors import nats_errors
from bulkfetch.text import safe

CONNECT_TIMEOUT = 10.0
SHORTEST_TRY = 2.0
"""Seconds that each of several servers is given at least, so that a silent one does not hide those after it."""

ANSWER_TIMEOUT = 5.0
PING_INTERVAL = 4.0
"""Seconds between two pings. The second that stays without answer ends the connection, so a line that is dead without
saying so is noticed after about 12 s; the client's own default takes six minutes."""

_PINGS = 2
_FLUSH = 2
_LOOK_AGAIN = 0.05


class Connection:
    """A connection that mends itself; made by `open`."""

    def __init__(self, name: str, notify: Listener, *, only_tls: bool) -> None:
        self.name = name
        self.client = _TlsClient() if only_tls else Client()
        self.js: JetStreamContext = self.client.jetstream(timeout=ANSWER_TIMEOUT)
        self._notify = notify
        self._said = ""
        self._refused: str | None = None
        self._hopeless = 0
        self._servers = 1
        self._established = False
        self._attempt = anyio.CancelScope()
        self._asking: set[anyio.CancelScope] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, address: NatsAddress, access: NatsAccess, notify: Listener) -> AsyncIterator[Self]:
        """A connection with one of the servers of `address`, until the block ends.

        Raises:
            FatalError: none is reached, or lets us in.
        """
        connection = cls(address.name, notify, only_tls=address.only_tls)
        try:
            await connection._connect(address.servers, access)
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                await connection._close()

    @contextmanager
    def asking(self, place: str | None = None) -> Iterator[None]:
        """Let errors of the NATS client from within mean what they mean for a run. Nothing is asked where there is no
        connection: the client would keep the words, and say them when nobody wants to know any more.

        Raises:
            TransientError: no answer, or no connection at the moment.
            FatalError: the broker refuses, or what is asked for is gone.
        """
        place = place or self.name
        self.check(place)
        with anyio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                with nats_errors(place):
                    yield
            finally:
                self._asking.discard(scope)
        if scope.cancelled_caught:
            self.check(place)
            raise TransientError(Reason.CONNECTION, f"{place}: the connection was lost")

    def check(self, place: str) -> None:
        """Raise if it is known already that there will be no answer."""
        if self._refused is not None:
            raise FatalError(f"{place}: the credentials do not allow what is needed: {self._refused}")
        if self.client.is_closed:
            said = safe(str(self.client.last_error or "no reason given"), 200)
            raise FatalError(f"{place}: the broker has ended the connection for good ({said}); check the credentials")
        if not self.client.is_connected:
            raise TransientError(Reason.CONNECTION, f"{place}: no connection at the moment")

    async def _connect(self, servers: tuple[str, ...], access: NatsAccess) -> None:
        self._servers = len(servers)
        options: dict[str, Any] = dict(access.options)
        # Workers that lost the same server do not come back as one.
        options["reconnect_time_wait"] = uniform(0.5, 1.5)
        options["connect_timeout"] = max(SHORTEST_TRY, CONNECT_TIMEOUT / len(servers))
        options["ping_interval"] = PING_INTERVAL
        # Not `move_on_after`: `_on_error` may run before it returns.
        self._attempt = anyio.CancelScope(deadline=anyio.current_time() + CONNECT_TIMEOUT)
        with self._attempt, nats_errors(self.name):
            await self.client.connect(
                servers=list(servers),
                name="bulkfetch",
                error_cb=self._on_error,
                disconnected_cb=self._on_lost,
                reconnected_cb=self._on_found,
                max_reconnect_attempts=-1,
                max_outstanding_pings=_PINGS,
                **options,
            )
            # It returns, too, where the server hung up in the middle; then it tries again by itself.
            while not (self.client.is_connected or self.client.is_closed):  # noqa: ASYNC110 - it tells nobody
                await anyio.sleep(_LOOK_AGAIN)
        if not self.client.is_connected:
            said = self._said or str(self.client.last_error or "")
            words = f" ({safe(said, 200)})" if said else ""
            raise FatalError(
                f"{self.name}: no connection{words}; check the address, the credentials and the server"
            ) from None
        self._established = True

    async def _on_error(self, error: Exception) -> None:
        # The client's own reporter prints a traceback for every attempt; the source tells of what lasts.
        said = safe(str(error) or type(error).__name__, 200)
        self._said = said
        if "permissions violation" in said.lower():
            # The server tells of it beside, and never answers the question itself.
            self._refused = said
            self._end_waiting()
        elif not self._established and _is_hopeless(error):
            self._hopeless += 1
            if self._hopeless >= self._servers:
                self._attempt.cancel()

    def _end_waiting(self) -> None:
        for scope in self._asking:
            scope.cancel()

    async def _on_lost(self) -> None:
        # The client itself lets them wait for answers that cannot come any more.
        self._end_waiting()
        if self._established and not self.client.is_closed:
            self._notify(Note("warning", f"{self.name}: the connection is lost; connecting again"))

    async def _on_found(self) -> None:
        if self._established:
            self._notify(Note("warning", f"{self.name}: connected again"))

    async def _close(self) -> None:
        client = self.client
        with anyio.move_on_after(ANSWER_TIMEOUT):
            # Not `drain`: after a fetch that found nothing it waits for its whole time-out (nats-py 2.16).
            # What was not sent comes back when its lease ends.
            with suppress(errors.Error, OSError):
                if client.is_connected:
                    await client.flush(timeout=_FLUSH)
            if not client.is_connected:
                # It would write them to the connection that is gone, and leave everything else open when that fails.
                client._pending, client._pending_data_size = [], 0  # noqa: SLF001 - the client has no way to do that
            with suppress(errors.Error, OSError):
                await client.close()
        _abort(client)


class _TlsClient(Client):
    """Says nothing to a server that does not want TLS, which the client itself does in the clear, password included."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()


def _is_hopeless(error: Exception) -> bool:
    """Whether a first connection that failed with `error` fails in the same way next time."""
    said = str(error).lower()
    hopeless = isinstance(error, errors.SecureConnWantedError | errors.AuthorizationError)
    return hopeless or any(word in said for word in ("authorization", "authentication", "certificate"))


def _abort(client: Client) -> None:
    """Drop what is left of a connection that a silent or vanished peer kept from closing."""
    for subscription in client._subs.values():  # noqa: SLF001 - as above
        subscription._stop_processing()  # noqa: SLF001
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - the client has no way to do that
    if writer is not None:
        writer.transport.abort()
