"""Both ports of the sandbox, opened and closed as one."""

import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from bulkfetch.sandbox.api import BillingApi
from bulkfetch.sandbox.faults import Dice, Faults
from bulkfetch.sandbox.files import FileHost
from bulkfetch.sandbox.invoices import InvoiceBook
from bulkfetch.sandbox.signed_links import LinkSigner
from bulkfetch.sandbox.stats import Stats
from bulkfetch.sandbox.token_bucket import TokenBucket

LOOPBACK = "127.0.0.1"
PUBLIC_TOKEN = "sandbox"  # noqa: S105 - it guards nothing, and everybody may know it

# Answers under way at the end are cut: a rehearsal has nothing to lose.
_SHUTDOWN_SECONDS = 0.1
_BACKLOG = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """How a sandbox is set up.

    Attributes:
        invoices: how many documents there are.
        seed: documents and faults follow from it.
        size: mean size of a PDF in bytes.
        drafts: share (0..1) of the documents that are drafts.
        port: the API's port, 0 for any free one. The files port is always a free one.
        token: what the API takes as bearer token.
        rate_limit: links a second, None for no limit.
        faults: what goes wrong on purpose.
        record_requests: keep `Stats.puts` and `Stats.gets`.
    """

    invoices: int = 1000
    seed: int = 0
    size: int = 60 * 1024
    drafts: float = 0.0
    port: int = 0
    token: str = field(default=PUBLIC_TOKEN, repr=False)
    rate_limit: float | None = None
    faults: Faults = field(default_factory=Faults)
    record_requests: bool = False

    def book(self) -> InvoiceBook:
        """The documents that a sandbox with these settings serves."""
        return InvoiceBook(self.invoices, self.seed, size=self.size, drafts=self.drafts, missing=self.faults.not_found)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running sandbox. The URLs have no trailing slash."""

    api_url: str
    files_url: str
    token: str = field(repr=False)
    book: InvoiceBook
    stats: Stats


@asynccontextmanager
async def serve(settings: SandboxSettings) -> AsyncIterator[Sandbox]:
    """Serve on the loopback address until the block is left.

    Raises:
        OSError: the port is in use, or may not be opened.
    """
    book, stats = settings.book(), Stats()
    dice = Dice(settings.faults, settings.seed)
    bucket = None if settings.rate_limit is None else TokenBucket(settings.rate_limit, time.monotonic())
    with _bound(0) as files, _bound(settings.port) as api:
        signer = LinkSigner(_url(files), secrets.token_bytes(32))
        file_host = FileHost(book, signer, dice, stats, record=settings.record_requests)
        billing_api = BillingApi(
            book, signer, dice, stats, token=settings.token, bucket=bucket, record=settings.record_requests
        )
        async with _answering(files, file_host.handle), _answering(api, billing_api.handle):
            yield Sandbox(_url(api), _url(files), settings.token, book, stats)


def _bound(port: int) -> socket.socket:
    return socket.create_server((LOOPBACK, port), backlog=_BACKLOG)


def _url(bound: socket.socket) -> str:
    return f"http://{LOOPBACK}:{bound.getsockname()[1]}"


@asynccontextmanager
async def _answering(
    bound: socket.socket, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> AsyncIterator[None]:
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, bound, backlog=_BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
