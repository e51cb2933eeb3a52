"""Which hosts are public, and the rule that follows: nothing goes to a public host in the clear."""

import ipaddress
import re
import socket
import unicodedata
from functools import lru_cache
from urllib.parse import urlsplit

import anyio

from bulkfetch.errors import FatalError, UsageError
from bulkfetch.text import printable

RESOLVE_TIMEOUT = 10.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# IPv4 in the last 32 bits: "compatible" (::a.b.c.d), mapped, translated (::ffff:0:a.b.c.d), NAT64.
_WITH_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_ISATAP = {0x0000_5EFE, 0x0200_5EFE}
# What `is_global` of some Python versions lets pass: IETF's own, Teredo, documentation, and a cloud's metadata server.
_NOT_PUBLIC = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "3fff::/20"))
)
_SEPARATORS = str.maketrans("\u3002", ".")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
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
    """Whether `address` is on the public internet; IPv4 inside IPv6 counts by the IPv4, as whoever translates it
    connects to that."""
    if isinstance(address, ipaddress.IPv6Address):
        last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if any(address in network for network in _WITH_IPV4):
            return is_public(last)
        if address.sixtofour is not None:
            return is_public(address.sixtofour)
        if address not in _GLOBAL_UNICAST or (int(address) >> 32 & 0xFFFFFFFF in _ISATAP and not is_public(last)):
            return False
    if address is None or any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


def is_number(host: str) -> bool:
    """Whether `host` is an IPv4 address in any spelling that some resolver or proxy understands: 127.1, 0x7f.0.0.1,
    2130706433, 0177.0.0.1, with a dot at its end, in digits of other scripts. No name ends in a number."""
    plain = unicodedata.normalize("NFKC", host).translate(_SEPARATORS).rstrip(".")
    return _NUMBER.fullmatch(plain.rpartition(".")[2]) is not None


@lru_cache(maxsize=64)
def literal(host: str) -> Address | None:
    """The address that `host` spells out; None where it is a name."""
    try:
        return ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return None
