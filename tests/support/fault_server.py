"""An HTTP server that misbehaves to the byte: what it reads is recorded raw, what it sends is written by the test.

An answer is a sequence of steps: bytes are sent, a number is a pause in seconds, `CLOSE` ends the connection and
`RESET` breaks it. Without an ending the connection stays open for the next request. It may be made from the request.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus


class End(Enum):
    """How a connection ends."""

    CLOSE = auto()
    RESET = auto()


CLOSE, RESET = End.CLOSE, End.RESET

Step = bytes | float | End
Steps = bytes | Iterable[Step]


@dataclass(frozen=True)
class Request:
    """A request as it came: `raw` is its head with the blank line, `body` what its Content-Length announced."""

    raw: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.raw.split(b" ", 1)[0].decode()

    @property
    def target(self) -> str:
        """The request target, byte for byte."""
        return self.raw.split(b"\r\n", 1)[0].split(b" ", 1)[1].rsplit(b" ", 1)[0].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """Header fields by lower-case name."""
        lines = self.raw.decode("latin-1").split("\r\n")[1:-2]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


Answer = Steps | Callable[[Request], Steps]


def reply(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A well-formed answer with a Content-Length."""
    return head(status, {"Content-Length": str(len(body)), **(headers or {})}) + body


def head(status: int, headers: dict[str, str]) -> bytes:
    """A status line and header fields, with the blank line."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def chunked(*parts: bytes, last: bool = True) -> bytes:
    """`parts` in chunked coding; without `last` the final chunk is missing."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if last else b"")


@dataclass
class FaultServer:
    """What is asked below a path prefix is answered by the prefix's answers in turn, the last one again and again.

    `asked` is set by the first request.
    """

    url: str
    port: int
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    _script: dict[str, list[Answer]] = field(default_factory=dict)

    def on(self, prefix: str, *answers: Answer) -> None:
        """Answer what begins with `prefix` by `answers`; the longest matching prefix counts."""
        self._script[prefix] = list(answers)

    @property
    def targets(self) -> list[str]:
        """The request targets, in order of arrival."""
        return [request.target for request in self.requests]

    def answer_to(self, request: Request) -> Steps:
        """The next answer for what `request` asks."""
        answers = self._script[max((prefix for prefix in self._script if request.target.startswith(prefix)), key=len)]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(request) if callable(answer) else answer

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            end = None
            while end is None:
                request = await _read(reader)
                self.requests.append(request)
                self.asked.set()
                end = await _send(writer, self.answer_to(request))
            if end is RESET:
                # With no time to linger the close is a RST.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Request:
    raw = await reader.readuntil(b"\r\n\r\n")
    request = Request(raw, b"")
    return Request(raw, await reader.readexactly(int(request.headers.get("content-length", "0"))))


async def _send(writer: asyncio.StreamWriter, answer: Steps) -> End | None:
    for step in [answer] if isinstance(answer, bytes) else answer:
        if isinstance(step, End):
            return step
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        else:
            await asyncio.sleep(step)
    return None


@asynccontextmanager
async def fault_server(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[FaultServer]:
    """A running server on a port of its own, with no answer yet."""
    served = FaultServer("", 0)
    conversations: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        conversations.add(task)
        try:
            await served.converse(reader, writer)
        except asyncio.CancelledError:
            pass  # asyncio's own callback would report it as an error
        finally:
            writer.close()
            conversations.discard(task)

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    served.url = f"{'https' if tls else 'http'}://{host}:{served.port}"
    try:
        yield served
    finally:
        server.close()
        for task in list(conversations):
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
