"""Statuses that mean the same wherever they come from, and what an error of aiohttp leaves behind."""

from datetime import UTC, datetime

import aiohttp
import pytest
from support.fault_server import fault_server, reply

from bulkfetch.errors import NotReady, OriginError, Reason, Throttled
from bulkfetch.net.http_errors import NEVER_MENDED, http_errors, transient_status

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SOON = {"Retry-After": "7"}


async def judged(status, headers=None):
    """The error for a server's answer of `status`."""
    async with fault_server() as server, aiohttp.ClientSession() as session:
        server.on("/", reply(status, headers=headers or {}))
        async with session.get(server.url, allow_redirects=False) as response:
            return transient_status(response, f"HTTP {status}", now=NOW)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "reason", "retry_after"),
    [
        (429, {}, Throttled, Reason.RATE_LIMITED, None),
        (429, SOON, Throttled, Reason.RATE_LIMITED, 7.0),
        (503, SOON, Throttled, Reason.SERVER_ERROR, 7.0),
        (503, {"Retry-After": "soon"}, Throttled, Reason.SERVER_ERROR, None),
        (503, {}, Throttled, Reason.SERVER_ERROR, None),
        (500, SOON, OriginError, Reason.SERVER_ERROR, None),
        (599, {}, OriginError, Reason.SERVER_ERROR, None),
        (408, SOON, OriginError, Reason.TIMEOUT, None),
        (202, SOON, NotReady, Reason.NOT_READY, 7.0),
        (204, {}, NotReady, Reason.NOT_READY, None),
        (409, {}, NotReady, Reason.NOT_READY, None),
        (423, SOON, NotReady, Reason.NOT_READY, 7.0),
        (425, {}, NotReady, Reason.NOT_READY, None),
    ],
)
async def test_statuses_that_mean_the_same_everywhere(status, headers, kind, reason, retry_after):
    """A pause, a failing server and a document that is not ready are told apart by status and Retry-After alone."""
    error = await judged(status, headers)
    assert type(error) is kind
    assert (error.reason, error.http_status, str(error)) == (reason, status, f"HTTP {status}")
    assert getattr(error, "retry_after", None) == retry_after


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 403, 404, 410, 422, *sorted(NEVER_MENDED)])
async def test_statuses_that_the_caller_judges(status):
    """A status that depends on what was asked for has no error here, even with a Retry-After."""
    assert await judged(status, SOON) is None


def test_one_context_serves_many_tasks():
    """The context keeps nothing of one use for the next: it may be entered again while it is open."""
    context = http_errors("the origin")
    with pytest.raises(OriginError, match="the origin: no answer in time") as caught, context:
        with context:
            pass
        raise TimeoutError
    assert caught.value.__context__ is None
