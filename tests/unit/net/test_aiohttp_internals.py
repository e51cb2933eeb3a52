"""The private parts of aiohttp are there and do what is expected of them; another version may have renamed them."""

import asyncio
import time
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from support.fault_server import CLOSE, fault_server, reply
from yarl import URL

from bulkfetch.net import aiohttp_internals
from bulkfetch.net.aiohttp_internals import MOST_ASKED, Watched, WatchingConnector, without_retries
from bulkfetch.net.asking import Asking, ask
from bulkfetch.net.doubts import Doubts

pytestmark = pytest.mark.anyio

TIMES = aiohttp.ClientTimeout(total=5)
PAGE = reply(200, b"page")
OTHER = reply(200, b"another's")


@asynccontextmanager
async def asking(server, doubts=None):
    """A function that asks `server` about an invoice, and the connector that it goes over."""
    connector = WatchingConnector(doubts=doubts or Doubts(), limit=8)
    async with without_retries(aiohttp.ClientSession(connector=connector)) as session:

        async def get(about):
            response = await ask(session, "GET", URL(server.url), about=about, headers=None, times=TIMES)
            return await response.read()

        yield get, connector


async def test_aiohttp_has_them():
    """An attribute that is set, or a method that is overridden, without being there, would be in vain, and silently."""
    connector = aiohttp.TCPConnector()
    session = aiohttp.ClientSession(connector=connector)
    protocol = aiohttp_internals.ResponseHandler(asyncio.get_running_loop())
    protocol.set_response_params()
    try:
        for owner, names in [
            (connector, ["_conns", "_factory", "_get", "_release", "_release_acquired", "_close", "_closed", "_limit"]),
            (protocol, ["_buffer", "_parser", "_payload", "_exception"]),
            (protocol._parser, ["feed_eof"]),
            (session, ["_retry_connection"]),
        ]:
            assert [name for name in names if not hasattr(owner, name)] == []
    finally:
        await session.close()


@pytest.mark.parametrize(
    "surplus", [[OTHER], [0.02, OTHER], [OTHER[:9], 0.05, OTHER[9:]]], ids=["glued", "later", "in two parts"]
)
async def test_what_comes_unasked_is_dropped_with_its_connection(surplus):
    """The next request goes over a fresh connection, the invoice is in doubt, and the host gets one request on each."""
    doubts = Doubts()
    async with fault_server() as server, asking(server, doubts) as (get, _):
        first, *rest = surplus
        server.on("/", [PAGE + first, *rest] if isinstance(first, bytes) else [PAGE, *surplus], PAGE)
        assert await get("A") == b"page"
        await anyio.sleep(0.1)
        for about in "BCD":
            assert await get(about) == b"page"
        assert (doubts.ids, server.connections) == ({"A"}, 4)


async def test_one_connection_casts_doubt_on_the_hosts_others():
    """What another connection brought before is in doubt as well, and nothing more is asked over it."""
    doubts = Doubts()
    async with fault_server() as server, asking(server, doubts) as (get, _):
        server.on("/", [0.05, PAGE], [0.05, PAGE, 0.05, OTHER], PAGE)
        async with anyio.create_task_group() as both:
            both.start_soon(get, "A")
            both.start_soon(get, "B")
        await anyio.sleep(0.2)
        assert doubts.ids == {"A", "B"}
        await get("C")
        assert (doubts.ids, server.connections) == ({"A", "B"}, 3)


async def test_sound_connections_are_kept_for_a_while():
    """One connection serves request after request, and another takes its place before it must remember too many."""
    doubts = Doubts()
    async with fault_server() as server, asking(server, doubts) as (get, connector):
        server.on("/", PAGE)
        for number in range(MOST_ASKED + 1):
            await get(str(number))
        await connector.last_look()
        assert (doubts.ids, server.connections) == (set(), 2)


async def test_a_goodbye_casts_no_doubt():
    """A 408 that comes to a connection at rest answers no request; neither does a stray line end."""
    doubts = Doubts()
    async with fault_server() as server, asking(server, doubts) as (get, connector):
        server.on("/", [PAGE, reply(408, headers={"Connection": "close"})], [PAGE, 0.01, b"\r\n"], [PAGE, CLOSE], PAGE)
        for about in "ABCDE":
            assert await get(about) == b"page"
            await anyio.sleep(0.05)
        await connector.last_look()
        assert doubts.ids == set()


async def test_the_last_look_sees_what_is_still_to_come():
    """Where answers are off by one, that of the last request comes after all is done: then everything is in doubt."""
    doubts = Doubts()
    async with fault_server() as server, asking(server, doubts) as (get, connector):
        server.on("/", PAGE, [PAGE, 0.05, OTHER])
        await get("A")
        await get("B")
        assert doubts.ids == set()
        with anyio.fail_after(3):
            await connector.last_look()
        assert doubts.ids == {"A", "B"}


async def test_a_look_costs_next_to_nothing():
    """A microsecond or so; the bound leaves room for a busy machine."""
    async with fault_server() as server:
        loop = asyncio.get_running_loop()
        connector = WatchingConnector(doubts=Doubts(), limit=8)
        transport, watched = await loop.create_connection(lambda: Watched(loop, connector), "127.0.0.1", server.port)
        watched.set_response_params()
        assert watched.begin(None, Asking("A"))
        watched.rest()
        took = []
        for _ in range(5):
            began = time.perf_counter()
            assert all(watched.is_quiet() for _ in range(1000))
            took.append((time.perf_counter() - began) / 1000)
        transport.close()
        await connector.close()
    assert min(took) < 20e-6
