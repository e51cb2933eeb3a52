"""From a queue's URL to the servers and the stream that it names."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from bulkfetch.errors import UsageError
from bulkfetch.text import safe

SCHEMES = ("nats", "tls")
DEFAULT_PORT = 4222

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[(?P<v6>[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?)\])(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where a stream is. `name` is its URL; `servers` are tried in any order, `hosts` are theirs."""

    name: str
    servers: tuple[str, ...]
    hosts: tuple[str, ...]
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
                f"queue {safe(url, 200)}: give it as {scheme}://host:{DEFAULT_PORT}/stream; a stream's name has "
                "letters, digits, - and _"
            )
        found = [_host_and_port(host, url) for host in hosts.split(",")]
        servers = tuple(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in found)
        return cls(f"{scheme}://{hosts}/{stream}", servers, tuple(host for host, _ in found), stream)


def _host_and_port(text: str, url: str) -> tuple[str, int]:
    parts = _HOST.fullmatch(text)
    port = int(parts["port"] or DEFAULT_PORT) if parts else 0
    if parts is None or not 0 < port < 65536 or (parts["v6"] and not _is_v6(parts["v6"])):
        raise UsageError(f"queue {safe(url, 200)}: {safe(text, 80)!r} is no host:port")
    return parts["v6"] or parts["host"], port


def _is_v6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
