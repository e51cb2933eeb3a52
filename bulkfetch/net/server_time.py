"""What time a server has."""

from datetime import datetime

import aiohttp

from bulkfetch.net.egress import DIRECT, Egress
from bulkfetch.net.headers import parse_http_date
from bulkfetch.net.http_errors import http_errors
from bulkfetch.net.sessions import json_session


async def server_time(url: str, *, origin: str, answer_seconds: float, egress: Egress = DIRECT) -> datetime | None:
    """The time in the answer to a HEAD request for `url`, in UTC; None if the answer names none. Nothing secret is
    sent, and any status will do. `answer_seconds` bounds the wait, `origin` what the server is called in messages.

    Raises:
        TransientError, PermanentError: as `http_errors` has it.
    """
    async with json_session(connections=1, egress=egress) as session:
        with http_errors(origin):
            async with session.head(
                url, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=answer_seconds)
            ) as response:
                return parse_http_date(response.headers.get("Date", ""))
