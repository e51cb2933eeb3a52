"""What became of requests, counted: whatever a server refuses with, and however a request ends."""

import asyncio

import pytest

from bulkfetch.errors import (
    BadBody,
    FatalError,
    LinkAged,
    LinkRefused,
    NotReady,
    OriginError,
    PermanentError,
    Reason,
    Refused,
    SingledOut,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.net.requests import Requests

REFUSED = [
    Throttled(Reason.RATE_LIMITED, "", http_status=429),
    Throttled(Reason.SERVER_ERROR, "", http_status=503, retry_after=1.0),
    OriginError(Reason.SERVER_ERROR, "", http_status=503),
    SingledOut(Reason.RATE_LIMITED, "", http_status=429),
    PermanentError(Reason.UNAUTHORIZED, "", http_status=401),
    PermanentError(Reason.FORBIDDEN, "", http_status=403),
    LinkRefused(Reason.LINK_EXPIRED, "", http_status=410),
]
FAILED = [
    OriginError(Reason.SERVER_ERROR, "", http_status=500),
    OriginError(Reason.TIMEOUT, ""),
    OriginError(Reason.CONNECTION, ""),
    PermanentError(Reason.CONNECTION, "a wrong certificate"),
    TransientError(Reason.TRUNCATED, ""),
    TransientError(Reason.DIGEST_MISMATCH, ""),
]
ANSWERED = [
    None,
    PermanentError(Reason.NOT_FOUND, "", http_status=404),
    NotReady(Reason.UNPROCESSABLE, "", http_status=409),
    UnexpectedAnswer(Reason.BAD_RESPONSE, ""),
    BadBody(Reason.NOT_PDF, "", refused=Refused("", 0)),
    FatalError("it redirects"),
]
ABANDONED = [asyncio.CancelledError(), KeyboardInterrupt()]


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("refused", REFUSED), ("failed", FAILED), ("answered", ANSWERED), ("abandoned", ABANDONED)],
)
def test_each_request_is_counted_as_what_became_of_it(kind, ends):
    """A refusal is one whatever its status, and each request that was sent is in exactly one count."""
    for end in ends:
        requests = Requests(sent=1)
        requests.ended(end)
        counts = {name: getattr(requests, name) for name in ("answered", "refused", "failed", "abandoned")}
        assert counts == dict.fromkeys(counts, 0) | {kind: 1}, repr(end)


def test_what_was_not_sent_is_not_counted():
    """A link that grew old before its host could be asked was no request."""
    requests = Requests(sent=1)
    requests.ended(LinkAged("it aged"))
    assert requests == Requests()
