"""The two HTTP edges put together as the program does it, with canaries for secrets and short times."""

import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from bulkfetch.errors import BulkfetchError, PermanentError, Reason
from bulkfetch.events import Listener
from bulkfetch.links.body import BodyLimits
from bulkfetch.links.downloader import HttpDownloader
from bulkfetch.links.minter import ApiMinter
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Link, Secret
from bulkfetch.net.gate import Gate
from bulkfetch.net.link_rules import LinkRules
from bulkfetch.net.sessions import download_session, json_session
from support.pdfs import pdf_bytes

TOKEN = "eyJCANARY.token"
SIGNATURE = "X-Canary-Signature=c4n4ry"
CANARIES = ("eyJCANARY", "X-Canary", "c4n4ry")

PDF = pdf_bytes(3216)

LOCAL = LinkRules(hosts=(), allow_local=True, allow_http=True)


def new_gate(origin: str = "API", *, ceiling: int = 64, notify: Listener = lambda event: None) -> Gate:
    return Gate(origin, ceiling=ceiling, max_outage=900.0, rng=Random(7), notify=notify)


def environment_token(value: str = TOKEN) -> TokenSource:
    return TokenSource(value=Secret(value), file="", command=(), warn=lambda message: None)


@asynccontextmanager
async def minting(
    url: str, *, token: TokenSource | None = None, gate: Gate | None = None, deadline: float = 5.0
) -> AsyncIterator[ApiMinter]:
    """A minter for the API at `url`."""
    async with json_session(connections=64) as session:
        yield ApiMinter(
            session,
            token or environment_token(),
            gate or new_gate(),
            base_url=url,
            link_seconds=600,
            connect_timeout=deadline,
            timeout=deadline,
        )


async def no_other(invoice_id: str) -> Link:
    """No invoice has another link."""
    raise PermanentError(Reason.NOT_FOUND, invoice_id)


@asynccontextmanager
async def downloading(
    *,
    rules: LinkRules = LOCAL,
    gate: Gate | None = None,
    mint: Callable[[str], Awaitable[Link]] = no_other,
    **limits: Any,
) -> AsyncIterator[HttpDownloader]:
    """A downloader by `rules`; `limits` are those of `BodyLimits` that matter to the test."""
    times: dict[str, Any] = {"connect": 2.0, "first_byte": 3.0, "idle": 5.0, "total": 10.0, "min_speed": 0.0}
    async with download_session(connections=64, rules=rules) as session:
        yield HttpDownloader(
            session,
            gate or new_gate("download host"),
            mint=mint,
            rules=rules,
            limits=BodyLimits(**{"max_size": 100_000, **times, **limits}),
        )


def link_to(url: str, *, age: float = 0.0, valid_seconds: int = 600) -> Link:
    return Link(url, time.monotonic() - age, valid_seconds)


def everything_said(error: BaseException) -> str:
    """What anybody could print of `error`: texts, reprs and attributes of the whole chain, hidden parts included."""
    said, chain = [], [error]
    while chain:
        link = chain.pop()
        said += [str(link), repr(link), repr(link.args), repr(getattr(link, "__dict__", None))]
        said += traceback.format_exception(link)
        chain += [other for other in (link.__cause__, link.__context__) if other is not None]
    return "\n".join(said)


def assert_keeps_secrets(error: BulkfetchError) -> None:
    said = everything_said(error)
    assert not [canary for canary in CANARIES if canary in said], said
