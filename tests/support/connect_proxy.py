"""A real HTTP proxy on loopback: it takes CONNECT, and knows by itself where names lead."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

USER, PASSWORD = "al@ice", "pr0xy-c4n4ry"

_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ConnectProxy:
    """Connects to the port on loopback that `ports` has for a name; another name gets 502.

    `heads` are the requests as they came, `seen` are all bytes that passed from clients; `status` is the answer to
    each CONNECT, where it is no 200.
    """

    ports: dict[str, int]
    auth: bool = False
    status: int = 200
    port: int = 0
    heads: list[str] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        """The proxy's URL, with user name and password if it wants them."""
        return f"http://{f'al%40ice:{PASSWORD}@' if self.auth else ''}127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """What was asked for, in order of arrival."""
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        port, status = self.ports.get(target.rpartition(":")[0]), self.status
        if self.auth and b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in head:
            status = 407
        elif method != "CONNECT":
            status = 405
        elif port is None and status == 200:
            status = 502
        if status != 200 or port is None:
            writer.write(f"HTTP/1.1 {status} As You Wish\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 As You Wish\r\n\r\n")
        await relay(reader, writer, port, self.seen)


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, seen: bytearray) -> None:
    """Pass on what comes to `port` and back, until either side ends; what goes there is added to `seen`."""

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter, noted: bytearray) -> None:
        while data := await source.read(65536):
            noted += data
            target.write(data)
            await target.drain()
        target.close()

    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.gather(forward(reader, there_writer, seen), forward(there_reader, writer, bytearray()))
    finally:
        there_writer.close()


@asynccontextmanager
async def _listening(serve: _Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        try:
            with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.close()
            serving.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@asynccontextmanager
async def connect_proxy(ports: dict[str, int], *, auth: bool = False, status: int = 200) -> AsyncIterator[ConnectProxy]:
    """A running proxy. `ports` may change while it runs."""
    proxy = ConnectProxy(ports, auth, status)
    async with _listening(proxy.serve) as proxy.port:
        yield proxy


@asynccontextmanager
async def tls_front(tls: ssl.SSLContext, port: int) -> AsyncIterator[int]:
    """A port on loopback that speaks TLS, and passes what comes on to `port`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, port, bytearray())

    async with _listening(serve, tls) as front:
        yield front
