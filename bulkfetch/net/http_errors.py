"""What aiohttp's errors, and the statuses that every server uses alike, mean for an invoice."""

import ssl
from contextlib import AbstractContextManager
from datetime import datetime

import aiohttp

from bulkfetch.errors import (
    FatalError,
    InvoiceError,
    NotReady,
    OriginError,
    PermanentError,
    Reason,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.net.headers import parse_retry_after
from bulkfetch.net.link_rules import BlockedAddressError

NEVER_MENDED = {402: Reason.FORBIDDEN, 451: Reason.FORBIDDEN, 501: Reason.SERVER_ERROR, 505: Reason.SERVER_ERROR}
"""Statuses that no later try changes, with their reason in a manifest row. Whether they end the run or one invoice
depends on what was asked for, and on what others are answered."""


NOT_YET = frozenset({202, 204, 409, 423, 425})
"""Statuses by which servers say that a document is still being made."""


_TOO_LARGE = ("Got more than", "Too many headers")  # aiohttp has no error of its own for it


def http_errors(origin: str) -> AbstractContextManager[None]:
    """A context that turns the errors of aiohttp and of the system into ours. It may be entered any number of times,
    by several tasks at once.

    Raises:
        OriginError: connection refused, reset, timed out, name not resolved.
        TransientError: the connection ended in the middle of the body.
        PermanentError: a link whose host may not be reached, or whose certificate is wrong.
        UnexpectedAnswer: the answer is not HTTP as we know it.
    """
    return _HttpErrors(origin)


class _HttpErrors:
    # A class, where other edges have a generator function: every chunk of a body is read inside, and a generator costs
    # three times as much to enter.
    __slots__ = ("_origin",)

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, aiohttp.ClientError | OSError | ValueError):
                # The original is dropped: its text holds the whole link, its repr the request's headers.
                raise _mapped(error, self._origin) from None
        except InvoiceError as mapped:
            # `from None` hides the original, but leaves it within reach of whoever prints a whole chain.
            mapped.__context__ = None
            raise


def transient_status(response: aiohttp.ClientResponse, message: str, *, now: datetime) -> TransientError | None:
    """The error for a status that means the same wherever it comes from: a pause, a failing server, a document that is
    not ready. None for every other status, which only the caller can judge; `NEVER_MENDED` is among these.

    `message` becomes the error's own; `now` serves for a Retry-After date where the response has no date itself.
    """
    status = response.status
    retry_after = retry_after_of(response, now)
    if status == 429:
        return Throttled(Reason.RATE_LIMITED, message, http_status=status, retry_after=retry_after)
    if status == 503:
        return Throttled(Reason.SERVER_ERROR, message, http_status=status, retry_after=retry_after)
    if status == 408:
        return OriginError(Reason.TIMEOUT, message, http_status=status)
    if status in NOT_YET:
        return NotReady(Reason.NOT_READY, message, http_status=status, retry_after=retry_after)
    if status >= 500 and status not in NEVER_MENDED:
        return OriginError(Reason.SERVER_ERROR, message, http_status=status)
    return None


def retry_after_of(response: aiohttp.ClientResponse, now: datetime) -> float | None:
    """The seconds that `response` asks to wait; None where it names no usable time. For `now` see above."""
    return parse_retry_after(response.headers.get("Retry-After"), date=response.headers.get("Date"), now=now)


def _mapped(error: Exception, origin: str) -> InvoiceError:
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() if _is_certificate(error):
            return PermanentError(Reason.CONNECTION, f"{origin}: the TLS certificate is not trusted")
        case aiohttp.ClientConnectorDNSError(os_error=BlockedAddressError()) | BlockedAddressError():
            return PermanentError(Reason.CONNECTION, f"{origin}: the link's host resolves to a local address")
        case aiohttp.ClientConnectorDNSError():
            return OriginError(Reason.CONNECTION, f"{origin}: the host name does not resolve")
        case TimeoutError():
            return OriginError(Reason.TIMEOUT, f"{origin}: no answer in time")
        case aiohttp.ClientPayloadError():
            return TransientError(Reason.TRUNCATED, f"{origin}: the connection ended in the middle of the body")
        case aiohttp.ClientConnectorError(os_error=os_error):
            return OriginError(Reason.CONNECTION, f"{origin}: cannot connect ({_system_word(os_error)})")
        case aiohttp.ClientResponseError() if error.message.startswith(_TOO_LARGE):
            return UnexpectedAnswer(Reason.BAD_RESPONSE, f"{origin}: the header of the answer is too large")
        case aiohttp.ClientResponseError():
            return UnexpectedAnswer(Reason.BAD_RESPONSE, f"{origin}: the answer is not valid HTTP")
        case aiohttp.InvalidURL() | ValueError():
            return PermanentError(Reason.BAD_RESPONSE, f"{origin}: not a valid URL")
        case OSError():
            return OriginError(Reason.CONNECTION, f"{origin}: the connection broke ({_system_word(error)})")
        case _:
            return OriginError(Reason.CONNECTION, f"{origin}: the connection broke ({type(error).__name__})")


def _is_certificate(error: Exception) -> bool:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return isinstance(cause, ssl.CertificateError)


def _system_word(error: OSError) -> str:
    # Only the system's own word: `str(error)` of aiohttp's subclasses can hold the URL.
    return error.strerror if isinstance(error.strerror, str) and "://" not in error.strerror else type(error).__name__


def fatal_if_certificate(error: InvoiceError) -> None:
    """Return unless `error` is about a certificate that is not trusted.

    Raises:
        FatalError: it is; no other invoice would get past the certificate.
    """
    if isinstance(error, PermanentError) and error.reason is Reason.CONNECTION:
        raise FatalError(f"{error}; the run cannot go on") from None
