"""A server between the store and SeaweedFS that answers some requests itself, as a store in trouble would."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp
from aiohttp import web
from yarl import URL

from support.seaweed import Seaweed

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


def s3_error(status: int, code: str) -> Callable[[], web.Response]:
    """An answer as S3 words it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>no</Message></Error>'
    return lambda: web.Response(status=status, text=body, content_type="application/xml")


class S3Proxy:
    """Passes requests on, signatures and all, except those that an answer was laid out for.

    `answers` are given to the next PUTs (HEADs for `head_answers`), one each; `damage` flips a byte of each PUT.
    """

    def __init__(self, seaweed: Seaweed, session: aiohttp.ClientSession) -> None:
        self.seaweed = seaweed
        self._upstream = seaweed.endpoint
        self._session = session
        self.endpoint = ""
        self.answers: list[Callable[[], web.Response]] = []
        self.head_answers: list[Callable[[], web.Response]] = []
        self.damage = False
        self.seen: list[tuple[str, str]] = []

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        self.seen.append((request.method, request.raw_path))
        data = await request.read()
        laid_out = {"PUT": self.answers, "HEAD": self.head_answers}.get(request.method)
        if laid_out:
            return laid_out.pop(0)()
        if self.damage and request.method == "PUT":
            data = bytes([data[0] ^ 1]) + data[1:]
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=request.headers, data=BytesIO(data), allow_redirects=False
        ) as response:
            headers = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
            if request.method == "HEAD" and "Content-Length" in response.headers:
                headers["Content-Length"] = response.headers["Content-Length"]
            return web.Response(status=response.status, headers=headers, body=await response.read())


class Forgetful(S3Proxy):
    """Lets a PUT through and cuts the connection before the answer, once for each time that `forget` is set."""

    forget = False

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request, or not."""
        answer = await super().handle(request)
        if self.forget and request.method == "PUT":
            self.forget = False
            assert request.transport
            request.transport.abort()
        return answer


@asynccontextmanager
async def serving(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """`handle` answers everything at the URL given."""
    app = web.Application(client_max_size=256 * 1024**2)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def s3_proxy(seaweed: Seaweed, kind: type[S3Proxy] = S3Proxy) -> AsyncIterator[S3Proxy]:
    """A proxy in front of `seaweed`."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        proxy = kind(seaweed, session)
        async with serving(proxy.handle) as proxy.endpoint:
            yield proxy
