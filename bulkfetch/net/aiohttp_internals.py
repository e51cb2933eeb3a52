"""The only place that touches private parts of aiohttp, for what it does not offer: to look at a connection before a
request goes out over it, and after the last answer.

The parts are those of aiohttp 3.14, so `pyproject.toml` allows no other version. A newer version may be allowed once
`tests/unit/net/test_aiohttp_internals.py` passes with it.
"""
# ruff: noqa: SLF001

import asyncio
import select
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from bulkfetch.net.asking import Asking, asking_now
from bulkfetch.net.doubts import Doubts
from bulkfetch.net.egress import DIRECT, Egress

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.tracing import Trace

MOST_ASKED = 100
"""Requests after which a connection is closed: each invoice asked for over it is remembered as long as it is kept."""

SHORTEST_LOOK, LONGEST_LOOK = 0.25, 30.0
"""Seconds for which a connection is looked at before it is closed. In between, somewhat longer than its host has ever
needed for an answer: where answers are off by one, that of the last request is still to come, and the wrong one that
came before it may have come at once."""

_LONGER = 1.25

_REQUEST_TIMEOUT = 408


class Watched(ResponseHandler):
    """A connection that notices what comes while nothing is asked over it.

    `asked` are the invoices asked for, `key` is the host. `_resting` says that no request is under way, `_disturbed`
    that bytes came meanwhile, of which `_first` are the first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: "WatchingConnector") -> None:
        super().__init__(loop)
        self.asked: list[str] = []
        self.key: ConnectionKey | None = None
        self._watch = watch
        self._requests = 0
        self._asking: Asking | None = None
        self._asked_at = 0.0
        self._resting = True
        self._disturbed = False
        self._first = b""
        self._unread = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def open_tunnel(self) -> None:
        """Note that a proxy is about to be asked for a connection: its answer is awaited."""
        self._resting = False

    def begin(self, key: "ConnectionKey", asking: Asking | None) -> bool:
        """Note that a request is about to be sent; False if it must not be, since something came already."""
        self.key = key
        if self._disturbed or not self.is_connected():
            return False
        self._asking = asking
        self._asked_at = self._loop.time()
        self._requests += 1
        self._resting = False
        if asking is not None and asking.about is not None:
            self.asked.append(asking.about)
        return True

    def is_quiet(self) -> bool:
        """Whether another request may go out: nothing has come since the last answer, not even to the system's buffer,
        nor an end."""
        if self._disturbed or (self._asking is not None and self._asking.spent):
            return False
        return not (self._unread.poll(0) or self._has_begun())

    @property
    def worn(self) -> bool:
        """Whether nothing more may be asked over this connection, although nothing is wrong with it."""
        asking = self._asking
        return self._requests >= MOST_ASKED or (asking is not None and (asking.alone or asking.spent))

    def rest(self) -> bool:
        """Note that the request is over; whether its answer came whole, and nothing beyond it."""
        self._resting = True
        if self._buffer:
            self._judge()
        return not self._disturbed and self.is_connected() and (self._payload is None or self._payload.is_eof())

    def data_received(self, data: bytes) -> None:
        # Without data the parser is told to go on with what it has.
        if self._resting and data:
            self._disturbed = True
            self._first += data[:16]
            if self._parser is not None:
                # The beginning of a head may have come with the last answer: only the parser knows.
                super().data_received(data)
            self._judge()
            return
        if self._asked_at:
            self._watch.waited(self.key, self._loop.time() - self._asked_at)
            self._asked_at = 0.0
        super().data_received(data)
        if self._resting and (self._buffer or self._exception is not None):
            self._judge()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._conclude()
        super().connection_lost(exc)

    def end(self) -> None:
        """Judge what has come by now, and close the connection. Once more is harmless."""
        self._conclude()
        self.close()

    def _conclude(self) -> None:
        if self._resting and (self._has_begun() or self._first.lstrip(b"\r\n").startswith(b"HTTP/")):
            self._came_unasked()
        self._watch.forget(self)

    def _judge(self) -> None:
        """Decide about what has come while nothing was asked."""
        self._disturbed = True
        if not self._buffer:
            if self._exception is not None:
                self.end()
            return
        (message, _), _ = self._buffer[0]
        self._first, self._parser = b"", None
        # A server that has waited for a request in vain says so, and answers nothing with it: hundreds of thousands of
        # these are sent every day, and none of them is the answer to a request that was sent whole.
        if message.code != _REQUEST_TIMEOUT:
            self._came_unasked()
        self.end()

    def _came_unasked(self) -> None:
        self._first, self._parser = b"", None
        self._watch.doubt(self)

    def _has_begun(self) -> bool:
        """Whether a part of a head has come that is not whole yet."""
        if self._parser is None:
            return False
        try:
            return self._parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - whatever it is, it is no end of an answer
            return True


class WatchingConnector(aiohttp.TCPConnector):
    """Gives out kept connections only if nothing came over them that was not asked for, and closes each with a look at
    what still comes.

    What `egress` sends through a proxy goes through its tunnel. `doubts` takes the invoices asked for over a connection
    that carried an unasked answer. Its host gets one request a connection from then on.
    """

    def __init__(self, *, doubts: Doubts, limit: int, egress: Egress = DIRECT, **options: Any) -> None:
        super().__init__(limit=limit, ssl=egress.tls or True, **options)
        self._egress = egress
        self._factory = cast("partial[ResponseHandler]", partial(Watched, self._loop, self))
        self._doubts = doubts
        self._doubted: set[ConnectionKey] = set()
        self._looked_at: dict[Watched, asyncio.TimerHandle] = {}
        self._all_closed = asyncio.Event()
        self._longest_wait: dict[ConnectionKey | None, float] = {}

    async def connect(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own name
    ) -> Connection:
        began = self._loop.time()
        if proxy := self._egress.proxy_for(req.url):
            req.update_proxy(proxy.url, None, {**proxy.headers})
        # To be had now: aiohttp adds to the proxy's headers, which are part of the key.
        key = req.connection_key
        connection = await super().connect(req, traces, timeout)
        asking, watched = asking_now(), connection.protocol
        if not isinstance(watched, Watched):
            return connection
        try:
            if key in self._doubted or (asking is not None and asking.alone):
                # Whoever answers before being asked does so about a round trip after the connection is made.
                await asyncio.sleep(max(SHORTEST_LOOK / 4, 2 * (self._loop.time() - began)))
            if not watched.begin(key, asking):
                raise aiohttp.ClientOSError(None, "an answer came before anything was asked")
        except BaseException:
            connection.close()
            raise
        return connection

    async def _create_direct_connection(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own name
        *,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        made = await super()._create_direct_connection(req, traces, timeout, client_error=client_error)
        if client_error is aiohttp.ClientProxyConnectionError and isinstance(made[1], Watched):
            made[1].open_tunnel()
        return made

    def waited(self, host: "ConnectionKey | None", seconds: float) -> None:
        """An answer of `host` was waited for so long."""
        if seconds > self._longest_wait.get(host, 0.0):
            self._longest_wait[host] = seconds

    async def last_look(self) -> None:
        """Close all kept connections, and return when what still came over them is known."""
        for kept in self._conns.values():
            for watched, _ in kept:
                self._look(watched)
        self._conns.clear()
        if self._looked_at:
            self._all_closed.clear()
            await self._all_closed.wait()

    def doubt(self, watched: Watched) -> None:
        """An answer came over `watched` that nobody asked for. The first time, what its host said over any other
        connection is not trusted either: whether that was sound may show only after the process was killed."""
        self._doubts.add(watched.asked)
        if watched.key is None or watched.key in self._doubted:
            return
        self._doubted.add(watched.key)
        kept = [other for other, _ in self._conns.pop(watched.key, ())]
        for other in [*kept, *self._acquired, *self._looked_at]:
            if isinstance(other, Watched) and other.key == watched.key:
                self._doubts.add(other.asked)
        for other in kept:
            self._look(other)

    def forget(self, watched: Watched) -> None:
        """`watched` is closed."""
        timer = self._looked_at.pop(watched, None)
        if timer is not None:
            timer.cancel()
            if not self._looked_at:
                self._all_closed.set()

    async def _get(self, key: "ConnectionKey", traces: "list[Trace]") -> Connection | None:
        asking = asking_now()
        if asking is not None and asking.alone:
            return None
        while (connection := await super()._get(key, traces)) is not None:
            watched = connection._protocol
            if isinstance(watched, Watched) and not watched.is_quiet():
                connection._protocol = None
                self._release_acquired(key, watched)
                self._look(watched)
                continue
            if asking is not None:
                asking.reused = True
            return connection
        return None

    def _release(self, key: "ConnectionKey", protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if self._closed or not isinstance(protocol, Watched):
            super()._release(key, protocol, should_close=should_close)
        elif not protocol.rest() or should_close:
            super()._release(key, protocol, should_close=True)
        elif protocol.worn or protocol.should_close or key in self._doubted:
            self._release_acquired(key, protocol)
            self._look(protocol)
        else:
            super()._release(key, protocol)

    def _look(self, watched: Any) -> None:
        """Close `watched` after a while, and take note of what comes until then. No more of them are open than
        connections in use may be."""
        if not watched.is_connected() or watched in self._looked_at:
            return
        if len(self._looked_at) >= self._limit > 0:
            next(iter(self._looked_at)).end()
        longest = _LONGER * self._longest_wait.get(watched.key, 0.0)
        seconds = min(LONGEST_LOOK, max(SHORTEST_LOOK, longest))
        self._looked_at[watched] = self._loop.call_later(seconds, watched.end)

    def _close(self, *, abort_ssl: bool = False) -> list[Awaitable[object]]:
        for watched in list(self._looked_at):
            watched.end()
        return super()._close(abort_ssl=abort_ssl)


def without_retries(session: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """`session`, which from now on sends each request once: a second one could meet another broken connection, and
    would not be told."""
    session._retry_connection = False
    return session
