"""The time that a server has, whatever else it says."""

from datetime import UTC, datetime

import pytest
from support.fault_server import CLOSE, fault_server, reply

from bulkfetch.errors import OriginError, Reason
from bulkfetch.net.server_time import server_time

pytestmark = pytest.mark.anyio


async def test_the_time_of_a_server():
    """The Date of any answer is the time, and an answer without a usable one has none; no token is sent for it."""
    async with fault_server() as server:
        server.on(
            "/",
            reply(404, headers={"Date": "Sun, 01 Mar 2026 10:00:00 GMT"}),
            reply(302),
            reply(200, headers={"Date": "x"}),
        )
        assert await server_time(server.url, origin="API", answer_seconds=5.0) == datetime(2026, 3, 1, 10, tzinfo=UTC)
        assert await server_time(server.url, origin="API", answer_seconds=5.0) is None
        assert await server_time(server.url, origin="API", answer_seconds=5.0) is None
        assert {request.method for request in server.requests} == {"HEAD"}
        assert not any("authorization" in request.headers for request in server.requests)


@pytest.mark.parametrize(("steps", "reason"), [([CLOSE], Reason.CONNECTION), ([30.0], Reason.TIMEOUT)])
async def test_a_server_that_says_nothing(steps, reason):
    """No answer within the time given is an error of the origin."""
    async with fault_server() as server:
        server.on("/", steps)
        with pytest.raises(OriginError, match="API: ") as caught:
            await server_time(server.url, origin="API", answer_seconds=0.3)
        assert caught.value.reason is reason
