"""The HTTP sessions: one for JSON APIs, one for links.

Neither keeps cookies, follows redirects or reads proxy settings by itself: what goes through a proxy is for `Egress` to
say, and no proxy sees a link.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import anyio

from bulkfetch import __version__
from bulkfetch.net.aiohttp_internals import WatchingConnector, without_retries
from bulkfetch.net.doubts import Doubts
from bulkfetch.net.egress import DIRECT, Egress
from bulkfetch.net.link_rules import CheckedResolver, LinkRules

USER_AGENT = f"bulkfetch/{__version__}"
READ_BUFFER = 256 * 1024
MAX_HEADER = 64 * 1024  # a redirect to a signed link of 60 KB
MAX_HEADERS = 200


@asynccontextmanager
async def json_session(
    *, connections: int, egress: Egress = DIRECT, doubts: Doubts | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session for answers in JSON, or without a body. It holds no token: whoever has one adds it to each request.

    `doubts` is told of invoices whose answers cannot be trusted; so below.
    """
    connector = WatchingConnector(doubts=doubts or Doubts(), limit=connections, egress=egress, ttl_dns_cache=60)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    # A PUT without a body has no content, and so no type of it.
    async with _session(connector, headers, skip_auto_headers=("Content-Type",)) as session:
        yield session


@asynccontextmanager
async def download_session(
    *, connections: int, rules: LinkRules, doubts: Doubts | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """The session for links: no token, and no address that `rules` do not allow."""
    connector = WatchingConnector(
        doubts=doubts or Doubts(),
        limit=connections,
        egress=rules.egress,
        ttl_dns_cache=60,
        resolver=CheckedResolver(rules),
    )
    # identity: a compressed body that is cut can look whole, and its length says nothing about the PDF's.
    headers = {"Accept": "application/pdf, */*;q=0.1", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    async with _session(connector, headers) as session:
        yield session


async def last_look(*sessions: aiohttp.ClientSession) -> None:
    """Close every kept connection of `sessions`, and return when it is known what still came over them."""
    async with anyio.create_task_group() as looks:
        for session in sessions:
            if isinstance(session.connector, WatchingConnector):
                looks.start_soon(session.connector.last_look)


def _session(
    connector: WatchingConnector, headers: dict[str, str], *, skip_auto_headers: Sequence[str] | None = None
) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        skip_auto_headers=skip_auto_headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        requote_redirect_url=False,
        read_bufsize=READ_BUFFER,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        max_headers=MAX_HEADERS,
    )
    return without_retries(session)
