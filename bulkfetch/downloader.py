"""Opens download links and verifies what comes: the bytes are right before anybody may keep them."""

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import anyio
from yarl import URL

from bulkfetch.checks import PdfCheck
from bulkfetch.errors import (
    BadBody,
    InvoiceError,
    LinkRefused,
    OriginError,
    PermanentError,
    Reason,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.limiter import Gate, Ticket
from bulkfetch.models import Link
from bulkfetch.policy import parse_retry_after
from bulkfetch.session import LinkRules, vendor_errors
from bulkfetch.text import safe

ORIGIN = "download host"
MAX_REDIRECTS = 3

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PERMANENT = frozenset({402, 451, 501, 505})


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """`max_size` in bytes; times in seconds; `min_speed` in bytes a second, measured over each `idle` seconds."""

    max_size: int
    connect: float
    first_byte: float
    idle: float
    total: float
    min_speed: float


class HttpDownloader:
    """The `Downloader` over HTTP(S). Redirects are followed up to three hops, each checked by `rules` like the link."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        gate: Gate,
        *,
        rules: LinkRules,
        limits: BodyLimits,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._gate = gate
        self._rules = rules
        self._limits = limits
        self._timeout = aiohttp.ClientTimeout(
            total=limits.total or None, sock_connect=limits.connect, sock_read=limits.idle
        )
        self._utc_now = utc_now

    @asynccontextmanager
    async def open(self, link: Link, *, suspect: str | None = None) -> AsyncIterator["HttpBody"]:
        """The link's body; see `interfaces.Downloader`."""
        ticket = await self._gate.enter()
        try:
            if anyio.current_time() - link.minted_at > 0.8 * link.valid_seconds:
                raise TransientError(Reason.LINK_EXPIRED, "the link aged while waiting for its host", charged=False)
            response = await self._get(link)
            try:
                digest = None
                if _is_weakly_framed(response):
                    # Nothing in HTTP tells a cut body from a whole one here: two identical downloads must.
                    digest = await self._digest_once(response)
                    response.close()
                    response = await self._get(link)
                body = HttpBody(response, ticket, limits=self._limits, suspect=suspect, expected=digest)
                yield body
            finally:
                # Closes a connection with unread bytes in it; a body read to its end has given it back already.
                response.close()
        except BaseException as error:
            ticket.close(error)
            raise
        else:
            ticket.close()

    async def _digest_once(self, response: aiohttp.ClientResponse) -> str:
        sha256 = hashlib.sha256()
        size = 0
        with vendor_errors(ORIGIN):
            async for chunk in response.content.iter_any():
                sha256.update(chunk)
                size += len(chunk)
                _check_size(size, self._limits.max_size)
        return sha256.hexdigest()

    async def _get(self, link: Link) -> aiohttp.ClientResponse:
        with vendor_errors(ORIGIN):
            # As received, byte for byte: a signature covers the URL's exact spelling.
            url = URL(link.url, encoded=True)
        for _hop in range(1 + MAX_REDIRECTS):
            problem = self._rules.problem(url)
            if problem is not None:
                raise PermanentError(Reason.BAD_RESPONSE, problem)
            with vendor_errors(ORIGIN), anyio.fail_after(self._limits.connect + self._limits.first_byte):
                response = await self._session.get(url, allow_redirects=False, timeout=self._timeout)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                break
            response.close()
            with vendor_errors(ORIGIN):
                url = url.join(URL(location, encoded=True))
        else:
            raise PermanentError(Reason.BAD_RESPONSE, f"the link redirects more than {MAX_REDIRECTS} times")
        try:
            self._check(response, link)
        except InvoiceError:
            response.close()
            raise
        return response

    def _check(self, response: aiohttp.ClientResponse, link: Link) -> None:
        status = response.status
        message = f"HTTP {status} from the download host"
        retry_after = parse_retry_after(
            response.headers.get("Retry-After"), date=response.headers.get("Date"), now=self._utc_now()
        )
        if status == 200:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise TransientError(Reason.BAD_RESPONSE, f"{message} with an encoding that was not asked for")
            _check_size(response.content_length or 0, self._limits.max_size)
        elif status == 429 or (status == 503 and retry_after is not None):
            reason = Reason.RATE_LIMITED if status == 429 else Reason.SERVER_ERROR
            raise Throttled(reason, message, http_status=status, retry_after=retry_after)
        elif status == 408:
            raise OriginError(Reason.TIMEOUT, message, http_status=status)
        elif status in {409, 425}:
            raise TransientError(Reason.BAD_RESPONSE, message, http_status=status)
        elif status in _PERMANENT:
            raise PermanentError(Reason.BAD_RESPONSE, message, http_status=status)
        elif 400 <= status < 500:
            expired = anyio.current_time() - link.minted_at >= link.valid_seconds
            reason = Reason.LINK_EXPIRED if expired else Reason.LINK_REFUSED
            raise LinkRefused(reason, message, http_status=status)
        elif status >= 500:
            raise OriginError(Reason.SERVER_ERROR, message, http_status=status)
        else:
            raise UnexpectedAnswer(Reason.BAD_RESPONSE, message, http_status=status)


class HttpBody:
    """A download under way: counts, hashes and checks while it is read. See `interfaces.Body`."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        ticket: Ticket,
        *,
        limits: BodyLimits,
        suspect: str | None,
        expected: str | None,
    ) -> None:
        kind = response.headers.get("Content-Type")
        self.content_type = safe(kind, 100) if kind else None
        self._response = response
        self._ticket = ticket
        self._limits = limits
        self._suspect = suspect
        self._expected = expected
        self._check = PdfCheck()
        self._md5 = hashlib.md5(usedforsecurity=False) if _md5_promised(response) else None

    @property
    def sha256(self) -> str:
        """Lower-case hex of all bytes read so far."""
        return self._check.sha256

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._response.content.iter_any().__aiter__()
        window_end = anyio.current_time() + self._limits.idle
        window_size = 0
        while True:
            with vendor_errors(ORIGIN):
                chunk = await anext(chunks, b"")
            if not chunk:
                break
            self._take(chunk)
            yield chunk
            if anyio.current_time() >= window_end:
                # A drip keeps every read alive: only the speed over a while gives it away.
                if self._check.size - window_size < self._limits.min_speed * self._limits.idle:
                    raise OriginError(Reason.TIMEOUT, f"{ORIGIN}: slower than {self._limits.min_speed:g} bytes/s")
                window_end, window_size = anyio.current_time() + self._limits.idle, self._check.size
        self._verify()
        # The last byte is here: the next download may start while this one is being made durable.
        self._ticket.close()

    def _take(self, chunk: bytes) -> None:
        self._check.take(chunk)
        if self._md5 is not None:
            self._md5.update(chunk)
        _check_size(self._check.size, self._limits.max_size)

    def _verify(self) -> None:
        promised = self._response.content_length
        if promised is not None and self._check.size != promised:
            raise TransientError(Reason.TRUNCATED, f"{self._check.size} of {promised} bytes arrived")
        if self._expected is not None and self.sha256 != self._expected:
            raise TransientError(Reason.TRUNCATED, "two downloads without a length differ: one of them was cut")
        mismatch = self._digest_mismatch()
        if mismatch is not None:
            raise TransientError(Reason.DIGEST_MISMATCH, f"the bytes do not match the server's {mismatch}")
        flaw = self._check.flaw()
        if flaw is not None:
            if self.sha256 == self._suspect:
                raise PermanentError(Reason.NOT_PDF, f"{flaw}; the same bytes came twice", hold=self._check.size > 0)
            raise BadBody(Reason.NOT_PDF, f"{flaw} (content type {self.content_type})", sha256=self.sha256)

    def _digest_mismatch(self) -> str | None:
        headers = self._response.headers
        sha256 = base64.b64encode(self._check.digest()).decode()
        if headers.get("x-amz-checksum-sha256", sha256) != sha256:
            return "x-amz-checksum-sha256"
        for name in ("Repr-Digest", "Content-Digest"):
            for item in headers.get(name, "").split(","):
                algorithm, _, value = item.strip().partition("=")
                if algorithm == "sha-256" and value.strip(":") != sha256:
                    return name
        if self._md5 is not None:
            md5 = self._md5.digest()
            if headers.get("Content-MD5", base64.b64encode(md5).decode()) != base64.b64encode(md5).decode():
                return "Content-MD5"
            if _is_s3_md5(self._response) and headers["ETag"].strip('"').lower() != md5.hex():
                return "ETag"
        return None


def _check_size(size: int, max_size: int) -> None:
    if size > max_size:
        raise PermanentError(Reason.TOO_LARGE, f"larger than limits.max_size ({max_size} bytes)")


def _is_weakly_framed(response: aiohttp.ClientResponse) -> bool:
    """Whether only the connection's end marks the body's end, and no checksum of the server can stand in."""
    headers = response.headers
    framed = "Content-Length" in headers or "chunked" in headers.get("Transfer-Encoding", "").lower()
    return not framed and not any(
        name in headers for name in ("x-amz-checksum-sha256", "Repr-Digest", "Content-Digest", "Content-MD5")
    )


def _md5_promised(response: aiohttp.ClientResponse) -> bool:
    return "Content-MD5" in response.headers or _is_s3_md5(response)


def _is_s3_md5(response: aiohttp.ClientResponse) -> bool:
    """Whether the ETag is an MD5: so on S3 for objects uploaded in one part without KMS or customer keys (AWS: Common
    response headers). Elsewhere 32 hex digits may mean anything."""
    headers = response.headers
    tag = headers.get("ETag", "").strip('"')
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    return (
        "x-amz-request-id" in headers
        and encryption == "AES256"
        and "x-amz-server-side-encryption-customer-algorithm" not in headers
        and len(tag) == 32
        and all(char in "0123456789abcdefABCDEF" for char in tag)
    )
