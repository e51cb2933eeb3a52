"""The two HTTP sessions and their edge: which hosts may be reached, and what aiohttp's errors mean to us.

The API's requests carry the token, the download session knows none. Neither keeps cookies, follows redirects or reads
proxy settings by itself: a proxy would see signed links.
"""

import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bulkfetch import __version__
from bulkfetch.errors import (
    FatalError,
    InvoiceError,
    OriginError,
    PermanentError,
    Reason,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.text import safe

USER_AGENT = f"bulkfetch/{__version__}"
READ_BUFFER = 256 * 1024
MAX_HEADER = 16 * 1024


@dataclass(frozen=True, slots=True)
class LinkRules:
    """Which links may be opened.

    `hosts` is the configured list (host, host:port, or .suffix); where it is not empty nothing else is reached.
    `allow_local` opens addresses of this machine and private networks (the API itself is on one), `allow_http` plain
    HTTP (the API itself uses it).
    """

    hosts: Sequence[str]
    allow_local: bool
    allow_http: bool

    def problem(self, url: URL) -> str | None:
        """Why `url` must not be opened, in words that hold no more of it than its host; None if it may."""
        try:
            host, port = url.host, url.port
        except ValueError:  # yarl looks at the authority only when it is asked for
            host = port = None
        if url.scheme not in {"http", "https"} or not host:
            return "the link is not an http(s) URL"
        shown = safe(host, 100)
        listed = self.lists(host, port)
        if url.user is not None or url.password is not None:
            return f"the link to {shown} carries user information"
        if url.scheme == "http" and not self.allow_http:
            return f"the link to {shown} is plain HTTP while the API uses HTTPS"
        if self.hosts:
            return None if listed else f"the link's host {shown} is not in api.link_hosts"
        address = literal(host)
        if address is not None and not self.allow_local and not is_public(address):
            return f"the link's host {shown} is a local address"
        if address is None and not self.allow_local and host.replace(".", "").isdigit():
            # Connected to without asking a resolver: 127.1 and 2130706433 are this machine.
            return f"the link's host {shown} is a number, but not an address in its usual form"
        if not self.allow_local and port not in {80, 443}:
            return f"the link to {shown} uses port {port}: list it in api.link_hosts if that is right"
        return None

    def lists(self, host: str, port: int | None) -> bool:
        """Whether the configuration names this host."""
        name = host.lower().rstrip(".")
        return any(
            name.endswith(entry) or name == entry[1:] if entry.startswith(".") else entry in {name, f"{name}:{port}"}
            for entry in (entry.lower() for entry in self.hosts)
        )

    def reaches(self, host: str, address: str) -> bool:
        """Whether a connection to `address`, to which `host` resolved, may be made."""
        return self.allow_local or self.lists(host, None) or bool(self.hosts) or is_public(literal(address))


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    """Whether `address` is on the public internet; IPv4 inside IPv6 (mapped, 6to4, NAT64) counts by the IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return address is not None and address.is_global and not address.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@lru_cache(maxsize=64)
def literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells out; None where it is a name."""
    try:
        return ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return None


class _CheckedResolver(AbstractResolver):
    """Resolves, and hands on only addresses that may be reached: what is checked is what is connected to."""

    def __init__(self, rules: LinkRules) -> None:
        self._rules = rules
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if any(not self._rules.reaches(host, result["host"]) for result in found):
            raise BlockedAddressError(host)
        return found

    async def close(self) -> None:
        await self._inner.close()


class BlockedAddressError(OSError):
    """A name that resolves to a local address was refused before any connection."""


@asynccontextmanager
async def api_session(*, connections: int) -> AsyncIterator[aiohttp.ClientSession]:
    """The session for the API's origin; the token is added by request, as it can change in a run."""
    connector = aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    # A PUT without a body has no content, and so no type of it.
    async with _session(connector, headers, skip_auto_headers=("Content-Type",)) as session:
        yield session


@asynccontextmanager
async def download_session(*, connections: int, rules: LinkRules) -> AsyncIterator[aiohttp.ClientSession]:
    """The session for links: no token, and no address that `rules` do not allow."""
    connector = aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60, resolver=_CheckedResolver(rules))
    # identity: a compressed body that is cut can look whole, and its length says nothing about the PDF's.
    headers = {"Accept": "application/pdf, */*;q=0.1", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    async with _session(connector, headers) as session:
        yield session


def _session(
    connector: aiohttp.TCPConnector, headers: dict[str, str], *, skip_auto_headers: Sequence[str] | None = None
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        skip_auto_headers=skip_auto_headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        requote_redirect_url=False,
        read_bufsize=READ_BUFFER,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
    )


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
