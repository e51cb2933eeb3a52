"""Which hosts are public, and the rule that follows: nothing goes to a public host in the clear."""

import ipaddress
import socket
from functools import lru_cache
from urllib.parse import urlsplit

import anyio

from bulkfetch.errors import FatalError, UsageError
from bulkfetch.text import printable

RESOLVE_TIMEOUT = 10.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_WITH_TLS = {"http": "https", "nats": "tls"}


class UnresolvedHost(FatalError):
    """The name of a host has no address, or the resolver does not answer."""


async def refuse_in_the_clear(url: str, *, label: str, exposed: str) -> None:
    """Return if `url` has a scheme with TLS, or a host that is local; nothing is sent to the host itself.

    Args:
        label: what `url` is in messages: a setting, or a name.
        exposed: what would be readable on the way.

    Raises:
        UsageError: `url` has a scheme without TLS, and its host is public.
        UnresolvedHost: the scheme has no TLS, and the host's name has no address.
    """
    parts = urlsplit(url)
    if parts.scheme in _WITH_TLS and not await is_local(parts.hostname or "", label=label):
        raise UsageError(
            f"{label}: plain {parts.scheme}:// to a public host would show {exposed} on the way; "
            f"use {_WITH_TLS[parts.scheme]}://"
        )


async def is_local(host: str, *, label: str) -> bool:
    """Whether `host`, a name or an address, is this machine or in a private network. One public address among the
    addresses of a name makes it public: which of them is connected to is not ours to say.

    Raises:
        UnresolvedHost: the name has no address; the message begins with `label`.
    """
    address = literal(host)
    addresses = [address] if address else await _resolve(host, label)
    return not any(is_public(found) for found in addresses)


async def _resolve(host: str, label: str) -> list[Address]:
    try:
        with anyio.fail_after(RESOLVE_TIMEOUT):
            found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UnresolvedHost(f"{label}: the host name {printable(host, 100)} does not resolve ({why})") from None
    return [ipaddress.ip_address(sockaddr[0].split("%")[0]) for *_, sockaddr in found]


def is_public(address: Address | None) -> bool:
    """Whether `address` is on the public internet; IPv4 inside IPv6 (mapped, 6to4, NAT64) counts by the IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return address is not None and address.is_global and not address.is_multicast


@lru_cache(maxsize=64)
def literal(host: str) -> Address | None:
    """The address that `host` spells out; None where it is a name."""
    try:
        return ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return None
