"""How the outside is reached: through which proxy, and whose certificates are trusted there."""

import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from yarl import URL

from bulkfetch.errors import UsageError
from bulkfetch.net.no_proxy import NoProxy
from bulkfetch.text import printable

PROXY_VARIABLE = "HTTPS_PROXY"
CA_VARIABLE = "SSL_CERT_FILE"
PROXY_LABEL = f"the proxy ({PROXY_VARIABLE} or api.proxy)"
CA_LABEL = f"{CA_VARIABLE} or api.ca_file"

_UNUSED = ("HTTP_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `url` has no user information, `headers` have it; `secret_url` is what was given."""

    url: URL
    headers: Mapping[str, str] = field(repr=False)
    secret_url: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.url.host}:{self.url.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The proxy that `text`, http://user:password@host:port, names; user and password may be missing.

        Raises:
            UsageError: it names none that can be used. The message does not show it, for it may hold a password.
        """
        given = text if "://" in text else f"http://{text}"
        try:
            url = URL(given)
        except ValueError:
            url = URL()
        if url.scheme != "http" or not url.host or not url.port or url.path not in ("", "/") or url.query_string:
            raise UsageError(f"{PROXY_LABEL} must be given as http://host:port, or http://user:password@host:port")
        headers = {}
        if url.user is not None or url.password is not None:
            pair = f"{url.user or ''}:{url.password or ''}"
            headers["Proxy-Authorization"] = f"Basic {b64encode(pair.encode()).decode('ascii')}"
        return cls(url.with_user(None).with_path("/"), headers, given)


@dataclass(frozen=True, slots=True)
class Egress:
    """The way out. Only https:// goes through `proxy`, by CONNECT, so that no proxy sees a token, a link or an invoice;
    http:// is for hosts that are reached directly.

    `tls` trusts what the system trusts and the certificates of `ca_file`; None is the system's trust alone.
    """

    proxy: Proxy | None = None
    inside: NoProxy = field(default_factory=NoProxy)
    ca_file: str = ""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    unused: str = ""
    """A variable that is set and has no effect, because another one is missing."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """What HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE of `environ` say; the first two also in lower case. Blocks.

        Raises:
            UsageError: one of them cannot be used.
        """
        proxy = _of(environ, PROXY_VARIABLE)
        ca_file = environ.get(CA_VARIABLE, "")
        unused = next((name for name in _UNUSED if _of(environ, name)), "")
        return cls(
            Proxy.parse(proxy) if proxy else None,
            NoProxy.parse(_of(environ, "NO_PROXY")),
            ca_file,
            _trusting(ca_file) if ca_file else None,
            "" if proxy else unused,
        )

    def is_outside(self, host: str, port: int | None) -> bool:
        """Whether `host` is reached through the proxy alone."""
        return self.proxy is not None and not self.inside.names(host, port)

    def proxy_for(self, url: URL) -> Proxy | None:
        """The proxy for a request to `url`; None if it goes directly."""
        return self.proxy if url.scheme == "https" and self.is_outside(url.raw_host or "", url.port) else None

    def advice(self) -> str:
        """What may be wrong where the outside is not reached, as the end of a message; empty behind a proxy."""
        if self.proxy is not None:
            return ""
        if self.unused:
            return f"; {self.unused} is set, but https goes by {PROXY_VARIABLE}, which is not"
        return f"; where only a proxy leads out, set {PROXY_VARIABLE}"

    def context(self) -> ssl.SSLContext:
        """The TLS settings for whoever needs a context of its own."""
        return self.tls or ssl.create_default_context()

    def ca_pem(self) -> str:
        """The certificates of `ca_file`. Blocks."""
        return Path(self.ca_file).expanduser().read_text("ascii", errors="ignore") if self.ca_file else ""


DIRECT = Egress()


def _of(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.lower()) or "").strip()


def _trusting(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(Path(ca_file).expanduser())
    except OSError as error:
        why = "it holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{CA_LABEL}: {printable(ca_file, 200)} cannot be used: {why}") from None
    return context
