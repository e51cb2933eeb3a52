"""Asks the billing API for a download link: `PUT {base}/invoices/{id}/download-link?secondsValid=N`.

The published contract declares 200 with `{"url"}`, 400, 404 and 422. It leaves open 401, 403, 429, 5xx and the bodies
of errors. Errors are judged here by status alone, never by their text, which is localised.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

import aiohttp
from yarl import URL

from bulkfetch.errors import (
    FatalError,
    InvoiceError,
    PermanentError,
    Reason,
    SingledOut,
    Throttled,
    UnexpectedAnswer,
)
from bulkfetch.events import Origin
from bulkfetch.links.answers import error_detail, link_in, no_link, read_answer, refuses_seconds_valid, target_host
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Link, Secret
from bulkfetch.net.asking import ask
from bulkfetch.net.deadlines import Deadlines
from bulkfetch.net.gate import Gate
from bulkfetch.net.http_errors import NEVER_MENDED, fatal_if_certificate, http_errors, transient_status

SINGLED_OUT = 3
"""After so many refusals of one invoice, with others answered before each, the invoice is the reason, not the pace."""

MAX_REFUSED = 10_000

_HTTP_ERRORS = http_errors(Origin.API)

_PERMANENT = {
    400: Reason.INVALID_REQUEST,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    405: Reason.INVALID_REQUEST,
    406: Reason.INVALID_REQUEST,
    410: Reason.NOT_FOUND,
    411: Reason.INVALID_REQUEST,
    413: Reason.INVALID_REQUEST,
    414: Reason.INVALID_REQUEST,
    415: Reason.INVALID_REQUEST,
    422: Reason.UNPROCESSABLE,
}


class ApiMinter:
    """The `LinkMinter` for the billing API.

    Args:
        base_url: the API's URL, whose path is kept (`https://tenant.example/api`).
        link_seconds: the life to ask for; at least 5 by the contract.
        connect_timeout: seconds for a connection.
        timeout: seconds from the request to the last byte of the answer, connecting included.
        utc_now: the wall clock, for a Retry-After date in an answer that has no date itself.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        token: TokenSource,
        gate: Gate,
        *,
        base_url: str,
        link_seconds: int,
        connect_timeout: float,
        timeout: float,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._token = token
        self._gate = gate
        self._base = base_url.rstrip("/")
        self._link_seconds = link_seconds
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._seconds = timeout
        self._deadlines = Deadlines()
        self._utc_now = utc_now
        # ID → how often it was refused while others were answered, and the gate's count of answers at its last refusal.
        # An entry stays until a link is granted, so that one refusal is enough in the second pass.
        self._refused: dict[str, tuple[int, int]] = {}
        self._time = asyncio.get_running_loop().time

    async def mint(self, invoice_id: str, *, fresh: bool = True) -> Link:
        """A fresh link; a refused token is renewed once. See `interfaces.LinkMinter`."""
        token = await self._token.current()
        answer = await self._ask(invoice_id, token, fresh=fresh)
        if answer is None:
            renewed = await self._token.renewed(token)
            if renewed is not None:
                answer = await self._ask(invoice_id, renewed, fresh=fresh)
        if answer is None:
            raise FatalError(
                "the API refuses the token (HTTP 401); no invoice was marked as failed: put a valid token in place and "
                "run the same command again"
            )
        return answer

    async def _ask(self, invoice_id: str, token: Secret, *, fresh: bool) -> Link | None:
        """The link by one request; None if the token was refused."""
        # The ID is one path segment, whatever characters it holds, and is sent exactly as encoded here.
        url = URL(
            f"{self._base}/invoices/{quote(invoice_id, safe='')}/download-link?secondsValid={self._link_seconds}",
            encoded=True,
        )
        headers = {"Authorization": f"Bearer {token.reveal()}"}
        with await self._gate.enter(invoice_id, fresh=fresh) as permit:
            try:
                with _HTTP_ERRORS, self._deadlines.within(self._seconds):
                    minted_at = self._time()
                    response = await ask(
                        self._session, "PUT", url, about=invoice_id, headers=headers, times=self._timeout
                    )
                    try:
                        body = await read_answer(response)
                    finally:
                        # Closes a connection with unread bytes in it; an answer read whole has given it back already.
                        response.close()
            except InvoiceError as error:
                fatal_if_certificate(error)
                raise
            if response.status == 401:
                permit.close(PermanentError(Reason.UNAUTHORIZED, "the token is refused", http_status=401))
                return None
            link = link_in(body) if 200 <= response.status < 300 else None
            if link is None:
                refusal = self._refusal(response, body, token)
                if isinstance(refusal, Throttled) and self._is_singled_out(invoice_id):
                    raise SingledOut(refusal.reason, f"{refusal} (only this invoice)", http_status=refusal.http_status)
                raise refusal
            self._refused.pop(invoice_id, None)
            return Link(link, minted_at, self._link_seconds, invoice_id, fresh)

    def _is_singled_out(self, invoice_id: str) -> bool:
        """Count a refusal of `invoice_id`. True if the invoice must be put off: it alone is refused, and each further
        refusal would stop all others."""
        times, answered = self._refused.get(invoice_id, (0, -1))
        if self._gate.requests.answered_since > answered:
            times += 1
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()  # each of them costs a few more pauses, and memory stays bounded
        self._refused[invoice_id] = (times, self._gate.requests.answered_since)
        return times >= SINGLED_OUT

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes, token: Secret) -> Exception:
        status = response.status
        detail = error_detail(body, token)
        message = f"HTTP {status} from the API" + (f": {detail}" if detail else "")
        transient = transient_status(response, message, now=self._utc_now())
        if transient is not None:
            return transient
        if status == 422 and refuses_seconds_valid(body):
            return FatalError(f"the API refuses api.link_seconds = {self._link_seconds}: {detail}")
        if status in _PERMANENT:
            return PermanentError(_PERMANENT[status], message, http_status=status)
        if status in NEVER_MENDED:
            return FatalError(message)
        if 200 <= status < 300:
            return no_link(response, body, now=self._utc_now())
        if 300 <= status < 400:
            # Following it would carry the token elsewhere, or turn the PUT into a GET.
            return FatalError(f"{message}: it redirects to {target_host(response)}; set api.url to where the API is")
        return UnexpectedAnswer(Reason.BAD_RESPONSE, message, http_status=status)
