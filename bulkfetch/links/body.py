"""A download under way: its bytes are verified before anybody may keep them."""

import asyncio
import hashlib
import math
from dataclasses import dataclass
from datetime import datetime

import aiohttp

from bulkfetch.errors import BadBody, NotReady, OriginError, PermanentError, Reason, Refused, TransientError
from bulkfetch.events import Origin
from bulkfetch.links.digests import promised_digests
from bulkfetch.links.renderings import Rendering
from bulkfetch.links.stand_ins import stand_in
from bulkfetch.net.deadlines import Deadlines
from bulkfetch.net.gate import Permit
from bulkfetch.net.http_errors import http_errors, retry_after_of
from bulkfetch.pdf import PdfCheck
from bulkfetch.text import printable

_HTTP_ERRORS = http_errors(Origin.DOWNLOAD_HOST)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large and how slow a body may be: `max_size` in bytes, times in seconds, `min_speed` in bytes a second.

    `total` bounds a whole download (0 = no bound), `idle` the wait for the next bytes. The speed is measured over
    every `idle` seconds of waiting.
    """

    max_size: int
    connect: float
    first_byte: float
    idle: float
    total: float
    min_speed: float


class HttpBody:
    """The `Body` of an HTTP response: counts, hashes and checks its bytes while it is read.

    Args:
        permit: ended with the last byte, so that the next download may start while this one is made durable.
        last_bad_sha256: the SHA-256 of a body that was no PDF; if it comes again, the error carries `hold`.
        witness: an earlier download of the same document, which this one must confirm; None if none is needed.
        now: for a Retry-After date.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        permit: Permit,
        *,
        arrival: "Arrival",
        last_bad_sha256: str | None,
        witness: Rendering | None,
        now: datetime,
    ) -> None:
        kind = response.headers.get("Content-Type")
        self.content_type = printable(kind, 100) if kind else None
        self._response = response
        self._arrival = arrival
        self._permit = permit
        self._last_bad_sha256 = last_bad_sha256
        self._witness = witness
        self._rendering = Rendering() if witness else None
        self._now = now
        self._check = PdfCheck()
        self._promised = promised_digests(response)
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def size(self) -> int:
        """See `interfaces.Body.size`."""
        return self._check.size

    @property
    def sha256(self) -> str:
        """See `interfaces.Body.sha256`."""
        return self._check.sha256

    async def gather(self, chunks: list[bytes], limit: int) -> bool:
        """See `interfaces.Body.gather`."""
        enough = self._check.size + limit
        hash_md5 = any(promise.algorithm == "md5" for promise in self._promised)
        try:
            while chunk := self._arrival.at_hand() or await self._arrival.next():
                self._check.take(chunk)
                if hash_md5:
                    self._md5.update(chunk)
                if self._rendering:
                    self._rendering.take(chunk)
                chunks.append(chunk)
                if self._check.size > enough:
                    return True
            self._verify()
        except BaseException as error:
            self._permit.close(error)
            raise
        # The last byte is here: the next download may start while this one is being made durable.
        self._permit.close()
        return False

    def close(self) -> None:
        """See `interfaces.Body.close`."""
        # Closes a connection with unread bytes in it; a body read to its end has given it back already.
        self._response.close()
        self._permit.abandon()

    def _verify(self) -> None:
        promised = self._response.content_length
        if promised is not None and self._check.size != promised:
            raise TransientError(Reason.TRUNCATED, f"{self._check.size} of {promised} bytes arrived")
        if self._witness and self._rendering and not self._witness.confirms(self._rendering):
            raise TransientError(Reason.TRUNCATED, "two downloads without a length differ: one of them was cut")
        for promise in self._promised:
            found = self._md5 if promise.algorithm == "md5" else self._check
            if promise.digest != found.digest():
                message = f"the bytes do not match the server's {promise.field}"
                raise TransientError(Reason.DIGEST_MISMATCH, message).about(self.size, self.sha256)
        flaw = self._check.flaw()
        if flaw is not None:
            raise self._no_document(flaw)

    def _no_document(self, flaw: str) -> TransientError:
        message = f"{flaw} (content type {self.content_type})"
        refused = Refused(self.sha256, self.size)
        hold = self.sha256 == self._last_bad_sha256
        instead = stand_in(self._check.head, self.content_type)
        if instead is None:
            return BadBody(Reason.NOT_PDF, message, refused=refused, hold=hold)
        return NotReady(
            Reason.NOT_READY,
            f"{instead} came in place of the document: {message}",
            http_status=self._response.status,
            retry_after=retry_after_of(self._response, self._now),
            # Nothing can be learned from an empty body: a connection that broke looks the same.
            refused=refused if self.size else None,
            hold=hold,
        )


class Arrival:
    """The chunks of a body as they come from the network, within the limits of time, speed and size."""

    def __init__(self, response: aiohttp.ClientResponse, limits: BodyLimits, deadlines: Deadlines) -> None:
        self._content = response.content
        self._limits = limits
        self._deadlines = deadlines
        self._time = asyncio.get_running_loop().time
        self._until = self._time() + (limits.total or math.inf)
        self._size = 0
        self._waited = 0.0
        self._mark = 0

    def at_hand(self) -> bytes:
        """What has come already; empty if nothing has."""
        with _HTTP_ERRORS:
            chunk = self._content.read_nowait()
        self._size += len(chunk)
        check_size(self._size, self._limits.max_size)
        return chunk

    async def next(self) -> bytes:
        """The next chunk, which is waited for; empty at the end."""
        if self._content.at_eof():
            return b""
        limits = self._limits
        asked = self._time()
        with _HTTP_ERRORS, self._deadlines.within(min(limits.idle, self._until - asked)):
            chunk = await self._content.readany()
        self._waited += self._time() - asked
        self._size += len(chunk)
        check_size(self._size, limits.max_size)
        # A host that drips keeps every single read in time: only its speed over a while gives it away. Only waiting
        # counts as time, since a slow disk is not the host's fault.
        if self._waited >= limits.idle:
            if chunk and self._size - self._mark < limits.min_speed * self._waited:
                raise OriginError(Reason.TIMEOUT, f"{Origin.DOWNLOAD_HOST}: slower than {limits.min_speed:g} bytes/s")
            self._waited, self._mark = 0.0, self._size
        return chunk


def check_size(size: int, max_size: int) -> None:
    """Return if a body may have `size` bytes.

    Raises:
        PermanentError: `size` is above `max_size`.
    """
    if size > max_size:
        raise PermanentError(Reason.TOO_LARGE, f"larger than limits.max_size ({max_size} bytes)")
