"""A resolver of our own, so that a test asks nobody for the addresses of a name."""

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bulkfetch.net.addresses import literal


def resolve_only(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, Sequence[str]]) -> list[str]:
    """Let the names in `names` have those addresses, and no other name any; the list that is returned grows by each
    name that is looked up. Addresses resolve as ever."""
    asked: list[str] = []
    original = socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is None or literal(name):
            return original(host, port, *args, **options)
        asked.append(name)
        if name not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [_info(address, port or 0) for address in names[name]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def _info(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)
