"""From a queue's URL and the environment to a connection with a NATS server."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
from nats.aio.client import RawCredentials

from bulkfetch.errors import UsageError
from bulkfetch.net.addresses import is_public, literal
from bulkfetch.text import safe

SCHEMES = ("nats", "tls")
DEFAULT_PORT = 4222

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[(?P<v6>[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?)\])(:(?P<port>[0-9]{1,5}))?")
_VARIABLES = ("NATS_CREDS", "NATS_NKEY", "NATS_TOKEN", "NATS_USER")
_TLS_VARIABLES = ("NATS_CA", "NATS_CERT", "NATS_KEY")
_PART = re.compile(r"-----BEGIN ([A-Z ]+)-----\s+(\S+)\s+------?END")
_CREDS_LIMIT = 1_000_000


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
        for name, needed in (("NATS_PASSWORD", "NATS_USER"), ("NATS_KEY", "NATS_CERT")):
            if environ.get(name) and not environ.get(needed):
                raise UsageError(f"{name} is of no use without {needed}")
        options: dict[str, Any] = {}
        match given:
            case ["NATS_CREDS"]:
                options["user_credentials"] = _credentials(environ)
            case ["NATS_NKEY"]:
                options["nkeys_seed_str"] = _seed("NATS_NKEY", _text("NATS_NKEY", environ).strip())
            case ["NATS_TOKEN"]:
                options["token"] = environ["NATS_TOKEN"]
            case ["NATS_USER"]:
                options["user"] = environ["NATS_USER"]
                options["password"] = environ.get("NATS_PASSWORD", "")
        if {"token", "password"} & options.keys():
            _refuse_in_the_clear(address)
        # A server may ask for TLS on nats://, too.
        if address.only_tls or any(environ.get(name) for name in _TLS_VARIABLES):
            options["tls"] = _tls(environ)
        return cls(options)


def _refuse_in_the_clear(address: NatsAddress) -> None:
    for host in address.hosts:
        ip = literal(host)
        if not address.only_tls and ip is not None and is_public(ip):
            raise UsageError(
                f"queue {address.name}: the password would travel in the clear to a public host; use tls://"
            )


def _text(variable: str, environ: Mapping[str, str]) -> str:
    path = Path(environ[variable]).expanduser()
    try:
        with path.open("rb") as file:
            return file.read(_CREDS_LIMIT).decode("ascii")
    except OSError as error:
        raise UsageError(f"{variable}: {safe(str(path), 200)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{variable}: {safe(str(path), 200)} holds no credentials") from None


def _credentials(environ: Mapping[str, str]) -> RawCredentials:
    """The two parts of a .creds file: the client reads on for ever where one is missing."""
    parts = dict(_PART.findall(_text("NATS_CREDS", environ)))
    try:
        jwt, seed = parts["NATS USER JWT"], parts["USER NKEY SEED"]
    except KeyError:
        raise UsageError("NATS_CREDS: the file holds no NATS USER JWT with its USER NKEY SEED") from None
    return RawCredentials(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{_seed('NATS_CREDS', seed)}\n------END USER NKEY SEED------\n"
    )


def _seed(variable: str, seed: str) -> str:
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        usable = seed.startswith("SU") and bool(pair.public_key)
    except Exception:  # noqa: BLE001 - whatever nkeys and the decoders below it make of a wrong file; it may quote it
        usable = False
    if not usable:
        raise UsageError(f"{variable}: the file holds no seed of a user (SU…)")
    return seed


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    ca, cert, key = (str(Path(environ[name]).expanduser()) if environ.get(name) else None for name in _TLS_VARIABLES)
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            # Nobody is here to type the passphrase that OpenSSL would ask for.
            context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "encrypted, or no PEM"
        raise UsageError(f"NATS_CA, NATS_CERT or NATS_KEY cannot be used: {reason}") from None
    return context
