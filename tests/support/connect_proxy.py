"""A real HTTP proxy on loopback: it takes CONNECT, and knows by itself where names lead."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

USER, PASSWORD = "al:ice", "pr0xy-c4n4ry"


@dataclass
class ConnectProxy:
    """Connects to the port on loopback that `ports` has for a name; another name gets 502.

    `heads` are the requests as they came, `seen` are all bytes that passed from clients; `status` is the answer to
    each CONNECT, where it is no 200.
    """

    port: int
    ports: Mapping[str, int]
    auth: bool = False
    status: int = 200
    heads: list[str] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        """The proxy's URL, with user name and password if it wants them."""
        return f"http://{'al%3Aice:pr0xy-c4n4ry@' if self.auth else ''}127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """What was asked for, in order of arrival."""
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        wanted = f"proxy-authorization: basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}".lower()
        port = self.ports.get(target.rpartition(":")[0])
        status = self.status
        if self.auth and wanted not in head.lower():
            status = 407
        elif method != "CONNECT":
            status = 405
        elif port is None and status == 200:
            status = 502
        writer.write(f"HTTP/1.1 {status} As You Wish\r\n{'' if status == 200 else 'Content-Length: 0'}\r\n".encode())
        if status != 200:
            writer.write(b"\r\n")
            await writer.drain()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(self._pass(reader, there_writer, note=True), self._pass(there_reader, writer))
        finally:
            there_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, note: bool = False) -> None:
        while data := await reader.read(65536):
            if note:
                self.seen += data
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def connect_proxy(
    ports: Mapping[str, int], *, auth: bool = False, status: int = 200
) -> AsyncIterator[ConnectProxy]:
    """A running proxy. `ports` may grow while it runs."""
    proxy = ConnectProxy(0, ports, auth, status)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await proxy.serve(reader, writer)
        finally:
            writer.close()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
