"""`/livez` and `/readyz` over HTTP. They say nothing about invoices, and nothing about versions."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from bulkfetch.errors import UsageError

_SHUTDOWN_SECONDS = 0.5

# What strangers send is no event of the run: by default aiohttp writes a traceback to stderr for each bad request.
_SILENT = logging.Logger("bulkfetch.health", logging.CRITICAL + 1)


class _Request(web.BaseRequest):
    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # Also for the answers that aiohttp makes itself: they would name its version and Python's.
        response.headers["Server"] = "bulkfetch"


@asynccontextmanager
async def endpoint(addr: str, why_not_ready: Callable[[], str | None]) -> AsyncIterator[None]:
    """Answer on `addr`, host:port, until the block ends. `why_not_ready` gives one word, or None.

    Raises:
        UsageError: the address cannot be bound.
    """

    async def answer(request: web.BaseRequest) -> web.Response:
        response = _answer(request.method, request.path, why_not_ready)
        # A probe opens a connection each time; one that lingers would only hold a file descriptor.
        response.force_close()
        return response

    runner = web.ServerRunner(
        web.Server(answer, request_factory=_request, access_log=None, logger=_SILENT),
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        await _bind(runner, addr)
        yield
    finally:
        await runner.cleanup()


def _answer(method: str, path: str, why_not_ready: Callable[[], str | None]) -> web.Response:
    if path not in ("/livez", "/readyz"):
        return web.Response(status=404, text="not found\n")
    if method != "GET":
        return web.Response(status=405, text="only GET\n", headers={"Allow": "GET"})
    why = why_not_ready() if path == "/readyz" else None
    return web.Response(status=503 if why else 200, text=f"{why or 'ok'}\n")


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    return _Request(message, payload, protocol, writer, task, asyncio.get_running_loop())


async def _bind(runner: web.ServerRunner, addr: str) -> None:
    host, _, port = addr.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"service.health_addr: {addr} cannot be bound: {_reason(error)}") from None


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "no such host name"
    if isinstance(error, socket.gaierror) or error.errno is None:
        return str(error.strerror or error)
    # asyncio's own words repeat the address.
    return os.strerror(error.errno)
