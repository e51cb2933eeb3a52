"""Which links may be opened, and which addresses may be connected to for them."""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bulkfetch.net.addresses import is_number, is_public, literal
from bulkfetch.net.egress import DIRECT, Egress
from bulkfetch.text import printable

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


class BlockedAddressError(OSError):
    """A name resolves to a local address, and was refused before any connection."""


@dataclass(frozen=True, slots=True)
class LinkRules:
    """Which links may be opened.

    Args:
        hosts: the configured list, of `host`, `host:port` or `.suffix`. If it is not empty, no other host is reached.
        allow_local: allow addresses of this machine and of private networks, because the API itself has one.
        allow_http: allow plain HTTP, because the API itself uses it.
        egress: the way out. What a name resolves to behind a proxy only the proxy knows, and it guards the inside: such
            a name is judged by `hosts` and as it is spelt.
        own_host: the API's host, which plain HTTP reaches beside a proxy.
    """

    hosts: Sequence[str]
    allow_local: bool
    allow_http: bool
    egress: Egress = DIRECT
    own_host: str = ""

    def problem(self, url: URL) -> str | None:
        """Why `url` must not be opened; None if it may be. The reason shows the host, and nothing else of the URL."""
        try:
            host, port = url.host, url.port
        except ValueError:  # yarl looks at the authority only when it is asked for
            host = port = None
        if url.scheme not in {"http", "https"} or not host:
            return "the link is not an http(s) URL"
        shown = printable(host, 100)
        listed = self.lists(host, port)
        if url.user is not None or url.password is not None:
            return f"the link to {shown} carries user information"
        if url.scheme == "http" and not self.allow_http:
            return f"the link to {shown} is plain HTTP while the API uses HTTPS"
        if url.scheme == "http" and host != self.own_host and self.egress.is_outside(host, port):
            return f"the link to {shown} is plain HTTP, which a proxy could read: if it is inside, add it to NO_PROXY"
        if self.hosts:
            return None if listed else f"the link's host {shown} is not in api.link_hosts"
        address = literal(host)
        if address is not None and not self.allow_local and not is_public(address):
            return f"the link's host {shown} is a local address"
        if address is None and not self.allow_local and is_number(host):
            # Such spellings are not asked for as names are: 127.1 and 2130706433 are this machine.
            return f"the link's host {shown} is a number, but not an address in its usual form"
        if address is None and not _HOST_NAME.fullmatch(url.raw_host or ""):
            # A proxy, or a resolver, may decode it to something else.
            return f"the link's host {shown} is not a host name"
        if not self.allow_local and port not in {80, 443}:
            return f"the link to {shown} uses port {port}: list it in api.link_hosts if that is right"
        return None

    def lists(self, host: str, port: int | None) -> bool:
        """Whether the configuration names `host`, alone or with `port`."""
        name = host.lower().rstrip(".")
        return any(
            name.endswith(entry) or name == entry[1:] if entry.startswith(".") else entry in {name, f"{name}:{port}"}
            for entry in (entry.lower() for entry in self.hosts)
        )

    def reaches(self, host: str, address: str) -> bool:
        """Whether a connection to `address` may be made, after `host` was resolved to it."""
        return self.allow_local or self.lists(host, None) or bool(self.hosts) or is_public(literal(address))


class CheckedResolver(AbstractResolver):
    """A resolver for aiohttp that returns only addresses that `rules` allow, so that no other can be connected to.

    Raises:
        BlockedAddressError: a name has an address that is not allowed.
    """

    def __init__(self, rules: LinkRules) -> None:
        self._rules = rules
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        proxy = self._rules.egress.proxy
        if proxy is not None and (host, port) == (proxy.url.raw_host, proxy.url.port):
            return found
        if any(not self._rules.reaches(host, result["host"]) for result in found):
            raise BlockedAddressError(host)
        return found

    async def close(self) -> None:
        await self._inner.close()
