"""NO_PROXY: the hosts that are inside, and are connected to without a proxy."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from bulkfetch.net.addresses import literal

# Whoever asks a proxy for these gets the proxy's own: they are each machine's, or its cloud's (metadata, credentials).
OF_THIS_MACHINE = ("localhost", "127.0.0.0/8", "::1", "169.254.0.0/16", "fd00:ec2::/32", "metadata.google.internal")

_ENTRY = re.compile(r"(?:\*?\.)?(\[[^\]]*\]|[^:]*|.*:.*:.*?)(?::([0-9]+))?")


@dataclass(frozen=True, slots=True)
class NoProxy:
    """Entries of NO_PROXY: `host` (with what is below it), an address, a network as 10.0.0.0/8, each also with `:port`;
    `*` is every host. No name is resolved."""

    entries: Sequence[tuple[str, int | None]] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The entries of `text`, between commas or blanks. What is no host matches nothing."""
        found = (_ENTRY.fullmatch(word) for word in re.split(r"[,\s]+", text) if word)
        return cls(
            tuple((entry[1].strip("[]").lower(), int(entry[2]) if entry[2] else None) for entry in found if entry)
        )

    def names(self, host: str, port: int | None) -> bool:
        """Whether `host`, with `port`, is inside. What is only this machine's own always is."""
        host = host.lower().rstrip(".").strip("[]")
        own = ((entry, None) for entry in OF_THIS_MACHINE)
        return any(at in (None, port) and _matches(entry, host) for entry, at in (*own, *self.entries))

    def hosts(self) -> Sequence[str]:
        """The entries that hold for every port."""
        return [entry for entry, port in self.entries if port is None]


def _matches(entry: str, host: str) -> bool:
    if entry == "*":
        return True
    address = literal(host)
    if address is None:
        return host == entry or host.endswith(f".{entry}")
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
