"""From a queue's URL and the environment to a connection with a NATS server."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bulkfetch.errors import UsageError
from bulkfetch.session import is_public, literal
from bulkfetch.text import safe

SCHEMES = ("nats", "tls")
DEFAULT_PORT = 4222

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,100}")
_VARIABLES = ("NATS_CREDS", "NATS_NKEY", "NATS_TOKEN", "NATS_USER")


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where a stream is. `name` is its URL; `servers` are tried in any order."""

    name: str
    servers: tuple[str, ...]
    stream: str

    @classmethod
    def parse(cls, url: str) -> "NatsAddress":
        """The stream that `url`, such as nats://host:4222/stream, names; several hosts stand between commas.

        Raises:
            UsageError: it names none, or carries credentials.
        """
        scheme, _, rest = url.partition("://")
        hosts, _, stream = rest.partition("/")
        if "@" in rest:  # a password may hold a slash, and a stream's name no @
            raise UsageError(
                f"queue {scheme}://: credentials do not belong in a URL, which every user of the machine can read; set "
                "NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD"
            )
        if not _STREAM.fullmatch(stream):
            raise UsageError(
                f"queue {safe(url, 200)}: give it as {scheme}://host:{DEFAULT_PORT}/stream; a stream's name has "
                "letters, digits, - and _"
            )
        servers = tuple(_server(scheme, host, url) for host in hosts.split(","))
        return cls(f"{scheme}://{hosts}/{stream}", servers, stream)


def _server(scheme: str, host: str, url: str) -> str:
    try:
        parts = urlsplit(f"{scheme}://{host}")
        name, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        name, port = None, 0
    if not name or (name != host.partition(":")[0].lower() and not host.startswith("[")):
        raise UsageError(f"queue {safe(url, 200)}: {safe(host, 80)!r} is no host:port")
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """How to be let in: what `nats.connect` takes for it."""

    options: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, address: NatsAddress, environ: Mapping[str, str]) -> "NatsAccess":
        """By the variables that the `nats` command knows: NATS_CREDS (a file), NATS_NKEY (a file with the seed),
        NATS_TOKEN, or NATS_USER with NATS_PASSWORD; NATS_CA, NATS_CERT and NATS_KEY (files) for TLS.

        Raises:
            UsageError: they contradict each other, a file cannot be used, or a password would travel in the clear to a
                public host.
        """
        given = [name for name in _VARIABLES if environ.get(name)]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other: a connection has one kind of credentials")
        options: dict[str, Any] = {}
        match given:
            case ["NATS_CREDS"]:
                options["user_credentials"] = _file("NATS_CREDS", environ)
            case ["NATS_NKEY"]:
                options["nkeys_seed"] = _file("NATS_NKEY", environ)
            case ["NATS_TOKEN"]:
                options["token"] = environ["NATS_TOKEN"]
            case ["NATS_USER"]:
                options["user"] = environ["NATS_USER"]
                options["password"] = environ.get("NATS_PASSWORD", "")
        if {"token", "password"} & options.keys():
            _refuse_in_the_clear(address)
        if address.servers[0].startswith("tls://"):
            options["tls"] = _tls(environ)
        return cls(options)


def _refuse_in_the_clear(address: NatsAddress) -> None:
    for server in address.servers:
        ip = literal(urlsplit(server).hostname or "")
        if server.startswith("nats://") and ip is not None and is_public(ip):
            raise UsageError(
                f"queue {address.name}: the password would travel in the clear to a public host; use tls://"
            )


def _file(variable: str, environ: Mapping[str, str]) -> str:
    path = Path(environ[variable]).expanduser()
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"{variable}: {safe(str(path), 200)} cannot be read: {error.strerror}") from None
    return str(path)


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=_file("NATS_CA", environ) if environ.get("NATS_CA") else None)
        if environ.get("NATS_CERT"):
            key = _file("NATS_KEY", environ) if environ.get("NATS_KEY") else None
            context.load_cert_chain(_file("NATS_CERT", environ), key)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise UsageError(f"NATS_CA, NATS_CERT or NATS_KEY is not a PEM file that can be used: {reason}") from None
    return context
