"""From the environment to the credentials and the TLS settings of a NATS connection."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
from nats.aio.client import RawCredentials

from bulkfetch.errors import UsageError
from bulkfetch.net.egress import CA_VARIABLE, Egress
from bulkfetch.queues.jetstream.address import NatsAddress
from bulkfetch.text import printable

_VARIABLES = ("NATS_CREDS", "NATS_NKEY", "NATS_TOKEN", "NATS_USER")
_TLS_VARIABLES = ("NATS_CA", "NATS_CERT", "NATS_KEY")
_ASKING_FOR_TLS = (*_TLS_VARIABLES, CA_VARIABLE)
_PART = re.compile(r"-----BEGIN ([A-Z ]+)-----\s+(\S+)\s+------?END")
_CREDS_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """How to be let in: what `nats.connect` takes for it."""

    options: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, address: NatsAddress, environ: Mapping[str, str]) -> "NatsAccess":
        """Read the variables that the `nats` command knows. One of NATS_CREDS (a file), NATS_NKEY (a file with the
        seed), NATS_TOKEN, or NATS_USER with NATS_PASSWORD says who we are. NATS_CA, NATS_CERT and NATS_KEY (files) are
        for TLS; without NATS_CA, SSL_CERT_FILE is trusted beside the system's authorities.

        Raises:
            UsageError: they contradict each other, or a file cannot be used.
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
        # A server may ask for TLS on nats://, too.
        if address.only_tls or any(environ.get(name) for name in _ASKING_FOR_TLS):
            options["tls"] = _tls(environ)
        return cls(options)


def _text(variable: str, environ: Mapping[str, str]) -> str:
    path = Path(environ[variable]).expanduser()
    try:
        with path.open("rb") as file:
            return file.read(_CREDS_LIMIT).decode("ascii")
    except OSError as error:
        raise UsageError(f"{variable}: {printable(str(path), 200)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{variable}: {printable(str(path), 200)} holds no credentials") from None


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
        context = ssl.create_default_context(cafile=ca) if ca else Egress.of(environ).context()
        if cert:
            # Nobody is here to type the passphrase that OpenSSL would ask for.
            context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "encrypted, or no PEM"
        raise UsageError(f"NATS_CA, NATS_CERT or NATS_KEY cannot be used: {reason}") from None
    return context
