"""Opens download links: redirects, statuses, and how the body is framed."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from bulkfetch.errors import (
    FatalAnswer,
    FatalError,
    InvoiceError,
    LinkAged,
    LinkRefused,
    PermanentError,
    Reason,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.events import Origin
from bulkfetch.links.body import Arrival, BodyLimits, HttpBody, check_size
from bulkfetch.links.digests import promised_digests
from bulkfetch.links.renderings import Rendering, Witnesses
from bulkfetch.models import Link
from bulkfetch.net.asking import ask
from bulkfetch.net.deadlines import Deadlines
from bulkfetch.net.gate import Gate
from bulkfetch.net.headers import MAX_RETRY_AFTER, names_coding
from bulkfetch.net.http_errors import NEVER_MENDED, http_errors, transient_status
from bulkfetch.net.link_rules import LinkRules
from bulkfetch.net.urls import redirected, sendable

MAX_REDIRECTS = 3
KEPT_HOSTS = 16

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WITH_DOCUMENT = frozenset({200, 201, 203})
_HTTP_ERRORS = http_errors(Origin.DOWNLOAD_HOST)


class HttpDownloader:
    """The `Downloader` over HTTP(S). Redirects are followed up to three hops, each checked by `rules` like the link.

    Args:
        mint: makes a fresh link for an invoice, to see whether others are answered.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        gate: Gate,
        *,
        mint: Callable[[str], Awaitable[Link]],
        rules: LinkRules,
        limits: BodyLimits,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._gate = gate
        self._mint = mint
        self._rules = rules
        self._limits = limits
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect)
        self._deadlines = Deadlines()
        self._kept: set[tuple[str, str]] = set()
        self._witnesses = Witnesses()
        self._utc_now = utc_now
        self._time = asyncio.get_running_loop().time

    async def open(self, link: Link, *, last_bad_sha256: str | None = None) -> HttpBody:
        """The link's body; see `interfaces.Downloader`."""
        try:
            return await self._open(link, last_bad_sha256)
        except Throttled:
            await self._gate.settle(self._answers)
            raise
        except FatalAnswer as error:
            if await self._gate.is_alone(self._answers):
                raise error.alone from None
            raise FatalError(str(error)) from None

    async def _answers(self, invoice_id: str) -> bool:
        """Whether the host has the document of `invoice_id`, by a fresh link; past the gate."""
        response = await self._get(await self._mint(invoice_id))
        response.close()
        return True

    async def _open(self, link: Link, last_bad_sha256: str | None) -> HttpBody:
        permit = await self._gate.enter(link.invoice_id, fresh=link.fresh)
        try:
            if self._time() - link.minted_at > 0.8 * link.valid_seconds:
                raise LinkAged("the link aged while waiting for its host")
            witness = self._witnesses.take(link.invoice_id)
            response = await self._get(link)
            if not _is_weakly_framed(response):
                witness = None
            elif witness is None:
                # Nothing in HTTP tells a cut body from a whole one here: a second download must.
                witness = await self._render_once(response)
                # Some links work once: then the next one is for the second download.
                self._witnesses.keep(link.invoice_id, witness)
                response = await self._get(link)
        except BaseException as error:
            permit.close(error)
            raise
        arrival = Arrival(response, self._limits, self._deadlines)
        return HttpBody(
            response,
            permit,
            arrival=arrival,
            last_bad_sha256=last_bad_sha256,
            witness=witness,
            now=self._utc_now(),
        )

    async def _render_once(self, response: aiohttp.ClientResponse) -> Rendering:
        rendering = Rendering()
        arrival = Arrival(response, self._limits, self._deadlines)
        try:
            while chunk := arrival.at_hand() or await arrival.next():
                rendering.take(chunk)
        finally:
            response.close()
        return rendering

    async def _get(self, link: Link) -> aiohttp.ClientResponse:
        with _HTTP_ERRORS:
            url = sendable(link.url)
        cookies = False
        for _hop in range(1 + MAX_REDIRECTS):
            headers = self._headers_for(url)
            with _HTTP_ERRORS, self._deadlines.within(self._limits.connect + self._limits.first_byte):
                response = await ask(
                    self._session, "GET", url, about=link.invoice_id, headers=headers, times=self._timeout
                )
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                break
            response.close()
            cookies = cookies or "Set-Cookie" in response.headers
            with _HTTP_ERRORS:
                url = redirected(url, location)
        else:
            raise PermanentError(Reason.BAD_RESPONSE, f"the link redirects more than {MAX_REDIRECTS} times")
        try:
            self._check(response, link, cookies)
        except InvoiceError:
            response.close()
            raise
        return response

    def _headers_for(self, url: URL) -> dict[str, str] | None:
        """The headers of a request to `url`, once the rules allow it. Connections are kept for the first few hosts
        only: links may lead to any number of hosts, and each would keep an idle connection.

        Raises:
            PermanentError: the rules do not allow `url`.
        """
        # The rules look at nothing else.
        origin = url.scheme, url.raw_authority
        if origin in self._kept:
            return None
        problem = self._rules.problem(url)
        if problem is not None:
            raise PermanentError(Reason.BAD_RESPONSE, problem)
        if len(self._kept) >= KEPT_HOSTS:
            return {"Connection": "close"}
        self._kept.add(origin)
        return None

    def _check(self, response: aiohttp.ClientResponse, link: Link, cookies: bool) -> None:
        status = response.status
        message = f"HTTP {status} from the download host"
        if status in _WITH_DOCUMENT or _is_whole_range(response):
            if names_coding(response.headers.getall("Content-Encoding", [])):
                raise TransientError(Reason.BAD_RESPONSE, f"{message} with an encoding that was not asked for")
            check_size(response.content_length or 0, self._limits.max_size)
            return
        transient = transient_status(response, message, now=self._utc_now())
        if isinstance(transient, Throttled) and (transient.retry_after or 0.0) > MAX_RETRY_AFTER:
            raise FatalAnswer(f"{message}; it asks for a pause of {transient.retry_after:.0f} s", transient)
        if transient is not None:
            raise transient
        if status in NEVER_MENDED:
            raise PermanentError(Reason.BAD_RESPONSE, message, http_status=status)
        if 400 <= status < 500:
            expired = self._time() - link.minted_at >= link.valid_seconds
            reason = Reason.LINK_EXPIRED if expired else Reason.LINK_REFUSED
            if cookies:
                message = f"{message}; a redirect on the way there set a cookie, which bulkfetch does not send back"
            raise LinkRefused(reason, message, http_status=status)
        raise UnexpectedAnswer(Reason.BAD_RESPONSE, message, http_status=status)


def _is_whole_range(response: aiohttp.ClientResponse) -> bool:
    """Whether this is a part by its status, but the whole by its own account: some caches answer so unasked."""
    size = response.content_length
    return response.status == 206 and response.headers.get("Content-Range") == f"bytes 0-{(size or 0) - 1}/{size}"


def _is_weakly_framed(response: aiohttp.ClientResponse) -> bool:
    """Whether only the end of the connection marks the end of the body, and the server promises no digest of it."""
    headers = response.headers
    framed = "Content-Length" in headers or "chunked" in headers.get("Transfer-Encoding", "").lower()
    return not framed and not promised_digests(response)
