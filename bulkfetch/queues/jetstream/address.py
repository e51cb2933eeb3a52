"""From a queue's URL to the servers and the stream that it names."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from bulkfetch.errors import UsageError
from bulkfetch.net.addresses import UnresolvedHost, refuse_in_the_clear
from bulkfetch.text import printable

SCHEMES = ("nats", "tls")
DEFAULT_PORT = 4222

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[(?P<v6>[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?)\])(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where a stream is. `name` is its URL; `servers` are tried in any order."""

    name: str
    servers: tuple[str, ...]
    stream: str

    @property
    def only_tls(self) -> bool:
        """Whether nothing may be said in the clear."""
        return self.name.startswith("tls://")

    @classmethod
    def parse(cls, url: str) -> "NatsAddress":
        """The stream that `url`, such as nats://host:4222/stream, names; several hosts stand between commas.

        Raises:
            UsageError: it names none, or carries credentials.
        """
        scheme, _, rest = url.partition("://")
        # In all of it: a password may hold a slash.
        if "@" in rest:
            raise UsageError(
                f"queue {scheme}://: credentials do not belong in a URL, which every user of the machine can read; set "
                "NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD"
            )
        hosts, _, stream = rest.partition("/")
        if not _STREAM.fullmatch(stream):
            raise UsageError(
                f"queue {printable(url, 200)}: give it as {scheme}://host:{DEFAULT_PORT}/stream; a stream's name has "
                "letters, digits, - and _"
            )
        found = [_host_and_port(host, url) for host in hosts.split(",")]
        servers = tuple(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in found)
        return cls(f"{scheme}://{hosts}/{stream}", servers, stream)

    async def allowed_servers(self) -> tuple[str, ...]:
        """The `servers` that may be connected to. Over nats:// none may be public, whatever the credentials: invoice
        IDs and columns travel in the clear, and a connection that an nkey has opened can be read and written to by
        everybody on the way. A server whose name does not resolve is left out, since nothing says where it will be.

        Raises:
            UsageError: a server without TLS is public.
            UnresolvedHost: no server's name resolves.
        """
        allowed: list[str] = []
        unresolved: UnresolvedHost | None = None
        for server in self.servers:
            try:
                await refuse_in_the_clear(server, label=f"queue {self.name}", exposed="messages and passwords")
                allowed.append(server)
            except UnresolvedHost as error:
                unresolved = error
        if unresolved is not None and not allowed:
            raise unresolved
        return tuple(allowed)


def _host_and_port(text: str, url: str) -> tuple[str, int]:
    parts = _HOST.fullmatch(text)
    port = int(parts["port"] or DEFAULT_PORT) if parts else 0
    if parts is None or not 0 < port < 65536 or (parts["v6"] and not _is_v6(parts["v6"])):
        raise UsageError(f"queue {printable(url, 200)}: {printable(text, 80)!r} is no host:port")
    return parts["v6"] or parts["host"], port


def _is_v6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
