"""Opens download links and verifies what comes: the bytes are right before anybody may keep them."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from bulkfetch.errors import (
    BadBody,
    InvoiceError,
    LinkAged,
    LinkRefused,
    OriginError,
    PermanentError,
    Reason,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.models import Link
from bulkfetch.net.gate import Gate, Ticket
from bulkfetch.net.sessions import LinkRules, VendorErrors
from bulkfetch.pdf import PdfCheck
from bulkfetch.policy import parse_retry_after
from bulkfetch.text import safe

ORIGIN = "download host"
MAX_REDIRECTS = 3
KEPT_HOSTS = 16

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PERMANENT = frozenset({402, 451, 501, 505})
_VENDOR_ERRORS = VendorErrors(ORIGIN)


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
        self._timeout = aiohttp.ClientTimeout(total=limits.total or None, sock_connect=limits.connect)
        self._kept: set[tuple[str, str]] = set()
        self._utc_now = utc_now
        self._time = asyncio.get_running_loop().time

    @asynccontextmanager
    async def open(self, link: Link, *, suspect: str | None = None) -> AsyncIterator["HttpBody"]:
        """The link's body; see `interfaces.Downloader`."""
        with await self._gate.enter(link.invoice_id) as ticket:
            if self._time() - link.minted_at > 0.8 * link.valid_seconds:
                raise LinkAged("the link aged while waiting for its host")
            response = await self._get(link)
            try:
                digest = None
                if _is_weakly_framed(response):
                    # Nothing in HTTP tells a cut body from a whole one here: two identical downloads must.
                    digest = await self._digest_once(response)
                    response.close()
                    response = await self._get(link)
                yield HttpBody(response, ticket, limits=self._limits, suspect=suspect, expected=digest)
            finally:
                # Closes a connection with unread bytes in it; a body read to its end has given it back already.
                response.close()

    async def _digest_once(self, response: aiohttp.ClientResponse) -> str:
        sha256 = hashlib.sha256()
        arrival = _Arrival(response, self._limits)
        while chunk := await arrival.next():
            sha256.update(chunk)
        return sha256.hexdigest()

    async def _get(self, link: Link) -> aiohttp.ClientResponse:
        with _VENDOR_ERRORS:
            # As received, byte for byte: a signature covers the URL's exact spelling.
            url = URL(link.url, encoded=True)
        for _hop in range(1 + MAX_REDIRECTS):
            headers = self._admitted(url)
            with _VENDOR_ERRORS:
                async with asyncio.timeout(self._limits.connect + self._limits.first_byte):
                    response = await self._session.get(
                        url, headers=headers, allow_redirects=False, timeout=self._timeout
                    )
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                break
            response.close()
            with _VENDOR_ERRORS:
                url = url.join(URL(location, encoded=True))
        else:
            raise PermanentError(Reason.BAD_RESPONSE, f"the link redirects more than {MAX_REDIRECTS} times")
        try:
            self._check(response, link)
        except InvoiceError:
            response.close()
            raise
        return response

    def _admitted(self, url: URL) -> dict[str, str] | None:
        """Headers for a request to `url`, whose host may be reached. Connections are kept for the first few hosts only:
        links may lead to any number, an idle one each.

        Raises:
            PermanentError: the rules do not allow it.
        """
        # All that the rules look at.
        where = url.scheme, url.raw_authority
        if where in self._kept:
            return None
        problem = self._rules.problem(url)
        if problem is not None:
            raise PermanentError(Reason.BAD_RESPONSE, problem)
        if len(self._kept) >= KEPT_HOSTS:
            return {"Connection": "close"}
        self._kept.add(where)
        return None

    def _check(self, response: aiohttp.ClientResponse, link: Link) -> None:
        status = response.status
        message = f"HTTP {status} from the download host"
        if status == 200:
            if _is_encoded(response):
                raise TransientError(Reason.BAD_RESPONSE, f"{message} with an encoding that was not asked for")
            _check_size(response.content_length or 0, self._limits.max_size)
            return
        retry_after = parse_retry_after(
            response.headers.get("Retry-After"), date=response.headers.get("Date"), now=self._utc_now()
        )
        if status == 429 or (status == 503 and retry_after is not None):
            reason = Reason.RATE_LIMITED if status == 429 else Reason.SERVER_ERROR
            raise Throttled(reason, message, http_status=status, retry_after=retry_after)
        if status == 408:
            raise OriginError(Reason.TIMEOUT, message, http_status=status)
        if status in {409, 425}:
            raise TransientError(Reason.BAD_RESPONSE, message, http_status=status)
        if status in _PERMANENT:
            raise PermanentError(Reason.BAD_RESPONSE, message, http_status=status)
        if 400 <= status < 500:
            expired = self._time() - link.minted_at >= link.valid_seconds
            reason = Reason.LINK_EXPIRED if expired else Reason.LINK_REFUSED
            raise LinkRefused(reason, message, http_status=status)
        if status >= 500:
            raise OriginError(Reason.SERVER_ERROR, message, http_status=status)
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
        self._arrival = _Arrival(response, limits)
        self._ticket = ticket
        self._suspect = suspect
        self._expected = expected
        self._check = PdfCheck()
        self._promised = _promised(response)
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def sha256(self) -> str:
        """Lower-case hex of all bytes read so far."""
        return self._check.sha256

    async def __aiter__(self) -> AsyncIterator[bytes]:
        hash_md5 = any(promise.algorithm == "md5" for promise in self._promised)
        while chunk := await self._arrival.next():
            self._check.take(chunk)
            if hash_md5:
                self._md5.update(chunk)
            yield chunk
        self._verify()
        # The last byte is here: the next download may start while this one is being made durable.
        self._ticket.close()

    def _verify(self) -> None:
        promised = self._response.content_length
        if promised is not None and self._check.size != promised:
            raise TransientError(Reason.TRUNCATED, f"{self._check.size} of {promised} bytes arrived")
        if self._expected is not None and self.sha256 != self._expected:
            raise TransientError(Reason.TRUNCATED, "two downloads without a length differ: one of them was cut")
        for promise in self._promised:
            found = self._md5 if promise.algorithm == "md5" else self._check
            if promise.digest != found.digest():
                raise TransientError(Reason.DIGEST_MISMATCH, f"the bytes do not match the server's {promise.field}")
        flaw = self._check.flaw()
        if flaw is not None:
            message = f"{flaw} (content type {self.content_type})"
            # Nothing twice is no sign that the server has nothing: a connection that broke looks like that, too.
            if self._check.size and self.sha256 == self._suspect:
                raise PermanentError(Reason.NOT_PDF, f"{message}; the same bytes came twice", hold=True)
            raise BadBody(Reason.NOT_PDF, message, sha256=self.sha256)


class _Arrival:
    """The chunks of a body as they come from the network: in time, fast enough, and not too many."""

    def __init__(self, response: aiohttp.ClientResponse, limits: BodyLimits) -> None:
        self._content = response.content
        self._limits = limits
        self._time = asyncio.get_running_loop().time
        self._size = 0
        self._waited = 0.0
        self._mark = 0

    async def next(self) -> bytes:
        """The next chunk; empty at the end."""
        limits = self._limits
        # Only what is not here yet has to be waited for, under a timeout that costs more than the read.
        with _VENDOR_ERRORS:
            chunk = self._content.read_nowait()
        if not chunk and not self._content.at_eof():
            chunk = await self._wait()
        self._size += len(chunk)
        _check_size(self._size, limits.max_size)
        # A drip keeps every read alive: only the speed over a while gives it away. Waiting alone counts, for a slow
        # disk is not the host's fault.
        if self._waited >= limits.idle:
            if chunk and self._size - self._mark < limits.min_speed * self._waited:
                raise OriginError(Reason.TIMEOUT, f"{ORIGIN}: slower than {limits.min_speed:g} bytes/s")
            self._waited, self._mark = 0.0, self._size
        return chunk

    async def _wait(self) -> bytes:
        asked = self._time()
        with _VENDOR_ERRORS:
            async with asyncio.timeout(self._limits.idle):
                chunk = await self._content.readany()
        self._waited += self._time() - asked
        return chunk


def _check_size(size: int, max_size: int) -> None:
    if size > max_size:
        raise PermanentError(Reason.TOO_LARGE, f"larger than limits.max_size ({max_size} bytes)")


_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})


def _is_encoded(response: aiohttp.ClientResponse) -> bool:
    """Whether `Content-Encoding` names a coding. Senders also write there what is none (`none`, `UTF-8`,
    `aws-chunked` of a body that was stored plain): such a label says nothing about the bytes."""
    fields = response.headers.getall("Content-Encoding", [])
    return any(label.strip().lower() in _CODINGS for field in fields for label in field.split(","))


def _is_weakly_framed(response: aiohttp.ClientResponse) -> bool:
    """Whether only the connection's end marks the body's end, and no checksum of the server can stand in."""
    headers = response.headers
    framed = "Content-Length" in headers or "chunked" in headers.get("Transfer-Encoding", "").lower()
    return not framed and not _promised(response)


@dataclass(frozen=True, slots=True)
class _Promise:
    """The digest of the whole body by the header `field`; `algorithm` is `sha-256` or `md5`."""

    field: str
    algorithm: str
    digest: bytes


_LENGTHS = {"sha-256": 32, "md5": 16}
_BARE = (("x-amz-checksum-sha256", "sha-256"), ("Content-MD5", "md5"))
_LISTS = ("Repr-Digest", "Content-Digest", "Digest")


def _promised(response: aiohttp.ClientResponse) -> Sequence[_Promise]:
    """What can be compared; digests in other algorithms, of parts (S3: `…-3`) or without sense promise nothing.

    Nor does an ETag: some stores put an MD5 there, and others 32 hex digits that look like one.
    """
    headers = response.headers
    named = [(field, algorithm, headers[field]) for field, algorithm in _BARE if field in headers]
    if headers.get("x-amz-checksum-type", "").upper() == "COMPOSITE":
        named = [promise for promise in named if promise[0] != "x-amz-checksum-sha256"]
    for field in _LISTS:
        if field in headers:
            for item in ",".join(headers.getall(field)).split(","):
                algorithm, _, value = item.strip().partition("=")
                named.append((field, algorithm.lower(), value.strip(":")))
    return [
        _Promise(field, algorithm, digest)
        for field, algorithm, value in named
        if value and len(digest := _decoded(value)) == _LENGTHS.get(algorithm)
    ]


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return b""
