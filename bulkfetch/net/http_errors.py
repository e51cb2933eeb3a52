"""What aiohttp's errors mean to us."""

import ssl

import aiohttp

from bulkfetch.errors import (
    FatalError,
    InvoiceError,
    OriginError,
    PermanentError,
    Reason,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.net.link_rules import BlockedAddressError


class VendorErrors:
    """A context that turns what aiohttp and the system raise into our errors; it may be entered any number of times.

    The originals are dropped: their text holds the whole link, their repr the request's headers.

    Raises:
        OriginError: connection refused, reset, timed out, name not resolved.
        PermanentError: a link whose host may not be reached, or whose certificate is wrong.
        UnexpectedAnswer: the answer is not HTTP as we know it.
    """

    __slots__ = ("_origin",)

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, aiohttp.ClientError | OSError | ValueError):
                raise _mapped(error, self._origin) from None
        except InvoiceError as mapped:
            # `from None` hides the original, but leaves it within reach of whoever prints a whole chain.
            mapped.__context__ = None
            raise


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
    """Raise FatalError where `error` is a refused certificate of the API: no invoice can get past it."""
    if isinstance(error, PermanentError) and error.reason is Reason.CONNECTION:
        raise FatalError(f"{error}; the run cannot go on") from None
