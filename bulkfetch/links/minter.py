"""Asks the billing API for a download link: `PUT {base}/invoices/{id}/download-link?secondsValid=N`.

The published contract declares 200 with `{"url"}`, 400, 404 and 422. What it leaves open (401, 403, 429, 5xx, bodies of
errors) is answered defensively here: by status alone, never by text, which is localised.
"""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from bulkfetch.errors import (
    FatalError,
    InvoiceError,
    NotReady,
    OriginError,
    PermanentError,
    Reason,
    SingledOut,
    Throttled,
    UnexpectedAnswer,
)
from bulkfetch.events import Origin
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Link, Secret
from bulkfetch.net.gate import Gate
from bulkfetch.net.sessions import VendorErrors, fatal_if_certificate
from bulkfetch.policy import parse_retry_after
from bulkfetch.text import safe

SINGLED_OUT = 3
"""Refusals of one invoice, others answered before each, after which it is that invoice and not the pace."""

MAX_REFUSED = 10_000
MAX_ANSWER = 64 * 1024

_VENDOR_ERRORS = VendorErrors(Origin.API)

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
_NOT_READY = frozenset({409, 423, 425})
_FATAL = frozenset({402, 451, 501, 505})

# A URL within a word, its host and port as the group, and what ends a name; both may be quoted percent-encoded.
_URL = re.compile(r"(?:://|%3A%2F%2F)(?:[^/?#]*@)?([\w.-]*(?::[0-9]+)?).*", re.IGNORECASE)
_EQUALS = re.compile("%3D", re.IGNORECASE)


class ApiMinter:
    """The `LinkMinter` for the billing API.

    Args:
        base_url: free-form, any path in it is kept (`https://tenant.example/api`).
        link_seconds: the life to ask for; 5 at least by the contract.
        timeout: seconds from request to the last byte of the answer.
        utc_now: the wall clock, for a Retry-After date in an answer without a date of its own.
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
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._utc_now = utc_now
        # ID → how often it was refused while others were answered, and the gate's count of answers at the last time. It
        # stays there until a link is granted: in the second pass one refusal is enough.
        self._refused: dict[str, tuple[int, int]] = {}
        self._time = asyncio.get_running_loop().time

    async def mint(self, invoice_id: str) -> Link:
        """A fresh link; a refused token is renewed once."""
        token = await self._token.current()
        answer = await self._ask(invoice_id, token)
        if answer is None:
            renewed = await self._token.renewed(token)
            if renewed is not None:
                answer = await self._ask(invoice_id, renewed)
        if answer is None:
            raise FatalError(
                "the API refuses the token (HTTP 401); no invoice was marked as failed: put a valid token in place and "
                "run the same command again"
            )
        return answer

    async def _ask(self, invoice_id: str, token: Secret) -> Link | None:
        """One request; None means that the token was refused."""
        # The ID is one path segment whatever it holds, and goes out exactly as encoded here.
        url = URL(
            f"{self._base}/invoices/{quote(invoice_id, safe='')}/download-link?secondsValid={self._link_seconds}",
            encoded=True,
        )
        headers = {"Authorization": f"Bearer {token.reveal()}"}
        with await self._gate.enter(invoice_id):
            try:
                with _VENDOR_ERRORS:
                    minted_at = self._time()
                    async with self._session.put(
                        url, headers=headers, allow_redirects=False, timeout=self._timeout
                    ) as response:
                        body = await _read_capped(response)
            except InvoiceError as error:
                fatal_if_certificate(error)
                raise
            if response.status == 401:
                return None
            if response.status != 200:
                refusal = self._refusal(response, body, token)
                if isinstance(refusal, Throttled) and self._is_singled_out(invoice_id):
                    raise SingledOut(refusal.reason, f"{refusal} (only this invoice)", http_status=refusal.http_status)
                raise refusal
            self._refused.pop(invoice_id, None)
            return Link(_link_in(response, body), minted_at, self._link_seconds, invoice_id)

    def _is_singled_out(self, invoice_id: str) -> bool:
        """Count a refusal of `invoice_id`: must it be put off, so that it does not stop everybody again and again?"""
        times, answered = self._refused.get(invoice_id, (0, -1))
        if self._gate.answered > answered:
            times += 1
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()  # costs those in it a few pauses more
        self._refused[invoice_id] = (times, self._gate.answered)
        return times >= SINGLED_OUT

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes, token: Secret) -> Exception:
        status = response.status
        detail = _detail(body, token)
        message = f"HTTP {status} from the API" + (f": {detail}" if detail else "")
        retry_after = parse_retry_after(
            response.headers.get("Retry-After"), date=response.headers.get("Date"), now=self._utc_now()
        )
        if status == 429 or (status == 503 and retry_after is not None):
            reason = Reason.RATE_LIMITED if status == 429 else Reason.SERVER_ERROR
            return Throttled(reason, message, http_status=status, retry_after=retry_after)
        if status == 422 and _names_seconds_valid(body):
            return FatalError(f"the API refuses api.link_seconds = {self._link_seconds}: {detail}")
        if status in _PERMANENT:
            return PermanentError(_PERMANENT[status], message, http_status=status)
        if status in _NOT_READY:
            return NotReady(Reason.UNPROCESSABLE, message, http_status=status)
        if status == 408:
            return OriginError(Reason.TIMEOUT, message, http_status=status)
        if status in _FATAL:
            return FatalError(message)
        if 300 <= status < 400:
            # Following it would carry the token elsewhere, or turn the PUT into a GET.
            return FatalError(f"{message}: it redirects to {_target(response)}; set api.url to where the API is")
        if status >= 500:
            return OriginError(Reason.SERVER_ERROR, message, http_status=status)
        return UnexpectedAnswer(Reason.BAD_RESPONSE, message, http_status=status)


def _target(response: aiohttp.ClientResponse) -> str:
    try:
        host = response.url.join(URL(response.headers.get("Location", ""))).host
    except ValueError:
        host = None
    return safe(host or "no valid URL", 100)


async def _read_capped(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > MAX_ANSWER:
            response.close()
            break
    return bytes(body)


class _Answer(msgspec.Struct):
    url: str | None = None
    # Other endpoints of the API wrap their single object in `data`; the contract of this one shows it bare.
    data: "_Answer | None" = None


def _link_in(response: aiohttp.ClientResponse, body: bytes) -> str:
    problem = None
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        problem = "an encoded body that was not asked for"
    elif len(body) > MAX_ANSWER:
        problem = "more than 64 KiB"
    else:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = safe(response.headers.get("Content-Type", "no content type"), 60)
            problem = f"no JSON object of the contract ({kind})"
        else:
            url = answer.url or (answer.data.url if answer.data else None)
            if url:
                return url
            problem = "no url in it"
    raise UnexpectedAnswer(Reason.BAD_RESPONSE, f"HTTP 200 from the API with {problem}", http_status=200)


class _Violation(msgspec.Struct, rename="camel"):
    property_path: str = ""
    message: str = ""


class _Problem(msgspec.Struct):
    """The members in which API Platform and its kin put an error's text; all of them optional."""

    detail: str | None = None
    title: str | None = None
    message: str | None = None
    description: str | None = msgspec.field(default=None, name="hydra:description")
    error: str | None = None
    violations: list[_Violation] = []


def _problem(body: bytes) -> _Problem:
    try:
        return msgspec.json.decode(body[:MAX_ANSWER], type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Problem()


def _detail(body: bytes, token: Secret) -> str:
    problem = _problem(body)
    said = problem.detail or problem.title or problem.message or problem.description or problem.error or ""
    if not said and problem.violations:
        said = "; ".join(f"{v.property_path}: {v.message}" for v in problem.violations)
    # A server may quote the token, the link or another URL in its words; a query can be a credential.
    words = said.replace(token.reveal(), "***").split()
    return safe(" ".join(_without_secret(word) for word in words), 400)


def _without_secret(word: str) -> str:
    """`word`, of a URL no more than its host, of a query nothing, of `name=value` no more than the name."""
    named, equals, _ = _EQUALS.sub("=", _URL.sub(r"://\1", word)).partition("=")
    if not equals:
        return named
    path, query, _ = named.partition("?")
    return path if query else f"{named}=***"


def _names_seconds_valid(body: bytes) -> bool:
    return any(violation.property_path == "secondsValid" for violation in _problem(body).violations)
