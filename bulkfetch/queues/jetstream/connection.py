"""One connection with a NATS server: how it is made, what its trouble means, and how it is closed."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from random import uniform
from typing import Any, Self

import anyio
from nats import errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BucketNotFoundError
from nats.js.kv import KeyValue

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.queues.jetstream.address import NatsAddress
from bulkfetch.queues.jetstream.credentials import NatsAccess
from bulkfetch.queues.jetstream.errors import nats_errors
from bulkfetch.queues.jetstream.nats_internals import TlsClient, abort, forget_unsent
from bulkfetch.retrying import polling
from bulkfetch.text import printable

CONNECT_TIMEOUT = 10.0
SHORTEST_TRY = 2.0
"""Seconds for each of several servers at least. No server gets all the time: a silent one would hide the others."""

ANSWER_TIMEOUT = 5.0
PING_INTERVAL = 4.0
"""Seconds between two pings. The second one without an answer ends the connection, so a dead line is noticed after
about 12 s. With the client's own settings that takes six minutes."""

_PINGS = 2
_FLUSH = 2
_LOOK_AGAIN = 0.05


class NatsConnection:
    """A connection that mends itself; made by `open`."""

    def __init__(self, name: str, notify: Listener, *, only_tls: bool) -> None:
        self.name = name
        self.client = TlsClient() if only_tls else Client()
        self.js: JetStreamContext = self.client.jetstream(timeout=ANSWER_TIMEOUT)
        self._notify = notify
        self._last_detail = ""
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
            UsageError: a server is public, and would be spoken to in the clear.
            FatalError: none is reached, or lets us in.
        """
        servers = await address.allowed_servers()
        connection = cls(address.name, notify, only_tls=address.only_tls)
        try:
            await connection._connect(servers, access)
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                await connection._close()

    @contextmanager
    def asking(self, label: str | None = None) -> Iterator[None]:
        """Turn errors of the NATS client from within into errors of bulkfetch, whose messages begin with `label`, or
        with the connection's name.

        Without a connection the block is not entered: the client would keep a question, and ask it when nobody waits
        for the answer any more. A connection that is lost ends the block.

        Raises:
            TransientError: no answer, or no connection at the moment.
            FatalError: the broker refuses, or what is asked for is gone.
        """
        label = label or self.name
        self.raise_if_unreachable(label)
        with anyio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                with nats_errors(label):
                    yield
            finally:
                self._asking.discard(scope)
        if scope.cancelled_caught:
            self.raise_if_unreachable(label)
            raise TransientError(Reason.CONNECTION, f"{label}: the connection was lost")

    def raise_if_unreachable(self, label: str) -> None:
        """Raise if it is known already that there will be no answer.

        Raises:
            TransientError: there is no connection at the moment.
            FatalError: the broker refuses, or has ended the connection for good.
        """
        if self._refused is not None:
            raise FatalError(f"{label}: the credentials do not allow what is needed: {self._refused}")
        if self.client.is_closed:
            detail = printable(str(self.client.last_error or "no reason given"), 200)
            raise FatalError(f"{label}: the broker has ended the connection for good ({detail}); check the credentials")
        if not self.client.is_connected:
            raise TransientError(Reason.CONNECTION, f"{label}: no connection at the moment")

    async def kv_store(self, name: str, *, ttl: float) -> KeyValue:
        """The key-value store `name`, for what workers know together and could do without. A missing one is made; its
        entries are kept for `ttl` seconds.

        Raises:
            nats.errors.Error: the server refuses, or does not answer; call this within `asking`.
        """
        try:
            return await self.js.key_value(name)
        except BucketNotFoundError:
            config = KeyValueConfig(bucket=name, history=1, ttl=ttl, storage=StorageType.FILE)
            return await self.js.create_key_value(config)

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
            # `connect` also returns when the server hung up in the middle. The client then tries again by itself.
            await polling(self._is_decided, CONNECT_TIMEOUT, pause=_LOOK_AGAIN)
        if not self.client.is_connected:
            last = self._last_detail or str(self.client.last_error or "")
            detail = f" ({printable(last, 200)})" if last else ""
            raise FatalError(
                f"{self.name}: no connection{detail}; check the address, the credentials and the server"
            ) from None
        self._established = True

    async def _is_decided(self) -> bool:
        return bool(self.client.is_connected or self.client.is_closed)

    async def _on_error(self, error: Exception) -> None:
        # The client's own reporter prints a traceback for every attempt; the source tells of what lasts.
        detail = printable(str(error) or type(error).__name__, 200)
        self._last_detail = detail
        if "permissions violation" in detail.lower():
            # The server says so beside the question, which it never answers.
            self._refused = detail
            self._end_waiting()
        elif not self._established and _is_hopeless(error):
            self._hopeless += 1
            if self._hopeless >= self._servers:
                self._attempt.cancel()

    def _end_waiting(self) -> None:
        for scope in self._asking:
            scope.cancel()

    async def _on_lost(self) -> None:
        # The client itself goes on waiting for answers that cannot come any more.
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
            # A message whose acknowledgement is not sent comes back when its lease ends.
            with suppress(errors.Error, OSError):
                if client.is_connected:
                    await client.flush(timeout=_FLUSH)
            if not client.is_connected:
                forget_unsent(client)
            with suppress(errors.Error, OSError):
                await client.close()
        abort(client)


def _is_hopeless(error: Exception) -> bool:
    """Whether a first connection that failed with `error` fails in the same way next time."""
    detail = str(error).lower()
    hopeless = isinstance(error, errors.SecureConnWantedError | errors.AuthorizationError)
    return hopeless or any(word in detail for word in ("authorization", "authentication", "certificate"))
