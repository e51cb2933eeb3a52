"""An API and a download host that say on a connection what nobody asked for; each by a manner of its own."""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from anyio.from_thread import start_blocking_portal

from support.fault_server import chunked, head, reply


def document(invoice_id: str) -> bytes:
    """The PDF of one invoice."""
    body = b"%PDF-1.7\n% invoice " + invoice_id.encode() + b"\n" + b"0 " * 1500
    return body + b"\nstartxref\n9\n%%EOF\n"


STRANGER = reply(200, document("nobody's"), {"Content-Type": "application/pdf"})


class Talk:
    """One connection: what is asked over it, in turn, and what the sound answers would be."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[str], bytes]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self.asked: list[str] = []

    async def next(self) -> bytes:
        """The sound answer to the next request."""
        line = (await self._reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        self.asked.append(urlsplit(line).path.split("/")[2])
        return self._answer(self.asked[-1])

    async def say(self, *steps: bytes | float) -> None:
        """Send the bytes among `steps`, and wait the seconds among them."""
        for step in steps:
            if isinstance(step, bytes):
                self._writer.write(step)
                await self._writer.drain()
            else:
                await asyncio.sleep(step)


Manner = Callable[[Talk], Awaitable[None]]


async def soundly(talk: Talk) -> None:
    """Each request has its answer, after a moment."""
    while True:
        await talk.say(0.02, await talk.next())


def followed_by(*steps: bytes | float) -> Manner:
    """`steps` come after each answer."""

    async def manner(talk: Talk) -> None:
        while True:
            await talk.say(await talk.next(), *steps)

    return manner


async def twice(talk: Talk) -> None:
    """Each answer comes once more after a while."""
    while True:
        answer = await talk.next()
        await talk.say(answer, 0.03, answer)


async def off_by_one(talk: Talk) -> None:
    """From the second request on, the answer before comes once more in front of each answer."""
    last = b""
    while True:
        answer = await talk.next()
        await talk.say(last, 0.01 if last else 0.0, answer)
        last = answer


def instead(*steps: bytes | float, of: int = 2) -> Manner:
    """`steps` come in place of the second answer, and the connection is closed."""

    async def manner(talk: Talk) -> None:
        for _ in range(of - 1):
            await talk.say(await talk.next())
        await talk.next()
        await talk.say(*steps)

    return manner


def in_front_of_the_second(*steps: bytes | float) -> Manner:
    """`steps` come when the second request has been sent, and then its own answer."""

    async def manner(talk: Talk) -> None:
        await talk.say(await talk.next())
        while True:
            answer = await talk.next()
            await talk.say(*steps, answer)

    return manner


def unasked_first(*steps: bytes | float) -> Manner:
    """`steps` come as soon as the connection is made."""

    async def manner(talk: Talk) -> None:
        await talk.say(*steps)
        await soundly(talk)

    return manner


async def chunked_twice(talk: Talk) -> None:
    """Each answer is chunked, and so is the stranger's that follows it."""
    while True:
        answer = await talk.next()
        start = head(200, {"Content-Type": "application/pdf", "Transfer-Encoding": "chunked"})
        body = answer.split(b"\r\n\r\n", 1)[1]
        await talk.say(start + chunked(body), 0.01, start + chunked(document("nobody's")))


async def half_a_head(talk: Talk) -> None:
    """The beginning of a stranger's answer comes in one piece with each answer, and the rest later."""
    while True:
        await talk.say(await talk.next() + STRANGER[:12], 0.02, STRANGER[12:])


@dataclass
class Hosts:
    """Where the two hosts listen, and how often each invoice was asked for."""

    api: str = ""
    files: str = ""
    asked: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def _hosts(api: Manner, files: Manner, tls: ssl.SSLContext | None) -> AsyncIterator[Hosts]:
    hosts = Hosts()
    talks: set[asyncio.Task[None]] = set()

    def link(invoice_id: str) -> bytes:
        hosts.asked[invoice_id] += 1
        url = json.dumps({"url": f"{hosts.files}/f/{invoice_id}"}).encode()
        return reply(200, url, {"Content-Type": "application/json"})

    def file(invoice_id: str) -> bytes:
        return reply(200, document(invoice_id), {"Content-Type": "application/pdf"})

    async def listen(manner: Manner, answer: Callable[[str], bytes]) -> tuple[asyncio.Server, str]:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            talks.add(task)
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await manner(Talk(reader, writer, answer))
            finally:
                writer.close()
                talks.discard(task)

        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        return server, f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    first, hosts.api = await listen(api, link)
    second, hosts.files = await listen(files, file)
    try:
        yield hosts
    finally:
        first.close()
        second.close()
        for task in list(talks):
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


@contextmanager
def misbehaving(api: Manner = soundly, files: Manner = soundly, tls: ssl.SSLContext | None = None) -> Iterator[Hosts]:
    """Both hosts, running in a thread of their own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_hosts(api, files, tls)) as hosts:
        yield hosts
