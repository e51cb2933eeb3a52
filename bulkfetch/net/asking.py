"""One request, with what a connection has to know of it: the rule by which it is sent anew, charged to nobody."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import aiohttp
from yarl import URL


@dataclass(slots=True)
class Asking:
    """A request on its way. `about` is the invoice that it asks for.

    With `alone` it gets a connection that nothing was asked over before, and nothing is after it. `reused` says that
    the connection it got carried other requests. `spent` says that nothing more may be asked over that connection.
    """

    about: str | None
    alone: bool = False
    reused: bool = False
    spent: bool = False


_now: ContextVar[Asking | None] = ContextVar("asking", default=None)
_checking: ContextVar[bool] = ContextVar("checking", default=False)

# What proxies send by themselves to a connection that waits: with no request in mind, or with the start of none.
_OF_THE_CONNECTION = frozenset({400, 408})


def asking_now() -> Asking | None:
    """The request that this task is about to send, if `ask` sends it."""
    return _now.get()


@contextmanager
def checking() -> Iterator[None]:
    """A block in which each request is asked alone, and leaves no doubt about its invoice: what it brings is compared
    with what came before."""
    token = _checking.set(True)
    try:
        yield
    finally:
        _checking.reset(token)


async def ask(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    about: str | None,
    headers: Mapping[str, str] | None,
    times: aiohttp.ClientTimeout,
) -> aiohttp.ClientResponse:
    """The answer to one request, as far as one connection can tell; the head of it, to be exact. No redirect is
    followed.

    A connection that was used before may break just now, or bring what was not meant for this request. Then the same
    request goes out once more, over a fresh connection. Errors of aiohttp go through.
    """
    alone = _checking.get()
    asking = Asking(None if alone else about, alone=alone)
    token = _now.set(asking)
    try:
        try:
            response = await session.request(method, url, headers=headers, allow_redirects=False, timeout=times)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientResponseError):
            if not asking.reused:
                raise
        else:
            if not (asking.reused and _may_be_unasked(response)):
                return response
            asking.spent = True
            # Not closed at once: what still comes over the connection tells whose answer that was.
            response.release()
        again = Asking(asking.about, alone=True)
        _now.set(again)
        return await session.request(method, url, headers=headers, allow_redirects=False, timeout=times)
    finally:
        _now.reset(token)


def _may_be_unasked(response: aiohttp.ClientResponse) -> bool:
    """Whether `response` may have been sent to the connection, and not to the request. What asks for a pause is taken
    at its word: to ask again at once would be the worst answer to it."""
    status, headers = response.status, response.headers
    if status < 400 or status == 429 or "Retry-After" in headers:
        return False
    closes = response.version is not None and response.version < aiohttp.HttpVersion11
    return status in _OF_THE_CONNECTION or closes or headers.get("Connection", "").lower() == "close"
