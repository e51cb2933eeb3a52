"""Out of a company's network: through a proxy, to servers whose certificates a private authority signs."""

import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace

import anyio
import pytest
import trustme
from support.connect_proxy import PASSWORD, connect_proxy
from support.edges import PDF, SIGNATURE, TOKEN, assert_keeps_secrets, environment_token, everything_said
from support.fault_server import fault_server, reply
from support.resolver import resolve_only

from bulkfetch.app.open_origins import open_origins
from bulkfetch.config import Api, Config
from bulkfetch.errors import FatalError, OriginError, PermanentError, UsageError
from bulkfetch.events import Note
from bulkfetch.links.body import HttpBody
from bulkfetch.net.egress import Egress

pytestmark = pytest.mark.anyio

API, FILES = "api.outside.example", "files.outside.example"
LINK = f"https://{FILES}/a.pdf?{SIGNATURE}"


@asynccontextmanager
async def company(tmp_path: Path, *, link: str = LINK, **proxy_options):
    """API and download host outside, each with a certificate of a private authority, and a proxy that leads there."""
    authority = trustme.CA()
    ca_file = tmp_path / "company-ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(API, FILES, "127.0.0.1", "localhost").configure_cert(served)
    async with (
        fault_server(served) as api,
        fault_server(served) as files,
        connect_proxy({API: api.port, FILES: files.port}, **proxy_options) as proxy,
    ):
        api.on("/", reply(200, b'{"url": "%s"}' % link.encode()))
        files.on("/", reply(200, PDF))
        environ = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(ca_file)}
        yield SimpleNamespace(api=api, files=files, proxy=proxy, environ=environ, ca_file=ca_file)


async def fetch(environ, *, url: str = f"https://{API}", notify=lambda event: None, **api) -> bytes:
    """One invoice, by the way that a run goes."""
    config = Config(api=Api(url=url, **api))
    egress = await anyio.to_thread.run_sync(Egress.of, environ)
    with anyio.fail_after(20):
        async with open_origins(config, environment_token(), rng=Random(), notify=notify, egress=egress) as origins:
            body: HttpBody = await origins.downloader.open(await origins.minter.mint("INV-1"))
            found: list[bytes] = []
            try:
                while await body.gather(found, 1 << 20):
                    pass
            finally:
                body.close()
            return b"".join(found)


async def test_api_and_links_go_through_the_proxy(tmp_path):
    """Names that nobody inside can resolve are fetched from, and the proxy sees neither token nor link."""
    async with company(tmp_path) as outside:
        assert await fetch(outside.environ) == PDF
        assert outside.proxy.targets == [f"{API}:443", f"{FILES}:443"]
        assert all(head.startswith("CONNECT ") for head in outside.proxy.heads)
        passed = bytes(outside.proxy.seen) + "".join(outside.proxy.heads).encode()
        for secret in (TOKEN, SIGNATURE, "INV-1", "a.pdf"):
            assert secret.encode() not in passed


async def test_a_tunnel_is_kept_for_the_next_request(tmp_path):
    """One tunnel carries many requests, and none of its answers is taken for one that nobody asked for."""
    async with company(tmp_path, auth=True) as outside:
        egress = await anyio.to_thread.run_sync(Egress.of, outside.environ)
        config = Config(api=Api(url=f"https://{API}"))
        async with open_origins(config, environment_token(), rng=Random(), notify=print, egress=egress) as origins:
            for number in range(5):
                await origins.minter.mint(f"INV-{number}")
            await origins.last_look()
            assert origins.doubts.ids == set()
        assert outside.proxy.targets == [f"{API}:443"]


async def test_the_proxy_gets_its_password_and_nobody_else(tmp_path):
    """User name and password go to the proxy, and not through it."""
    async with company(tmp_path, auth=True) as outside:
        assert await fetch(outside.environ) == PDF
        for request in (*outside.api.requests, *outside.files.requests):
            assert "proxy-authorization" not in request.headers
        assert PASSWORD not in repr(Egress.of(outside.environ))


async def test_a_proxy_that_wants_a_password_stops_the_run(tmp_path):
    """Nothing gets out without the proxy: a refused password is no invoice's failure, and is not shown."""
    async with company(tmp_path, auth=True) as outside:
        wrong = outside.environ | {"HTTPS_PROXY": outside.proxy.url.replace("al%40ice", "bob")}
        with pytest.raises(FatalError, match=r"HTTPS_PROXY or api\.proxy.*password") as caught:
            await fetch(wrong)
        assert PASSWORD not in everything_said(caught.value)
        assert_keeps_secrets(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, FatalError, "refuses to connect there"),
        (502, OriginError, "does not get through"),
        (503, OriginError, "does not get through"),
    ],
)
async def test_what_a_proxy_says_of_the_api(tmp_path, status, kind, words):
    """A proxy that forbids the API stops the run; one that does not reach it may do so later."""
    async with company(tmp_path, status=status) as outside:
        with pytest.raises(kind, match=words) as caught:
            await fetch(outside.environ)
        assert_keeps_secrets(caught.value)


async def test_a_link_that_the_proxy_forbids_fails_its_invoice_alone(tmp_path):
    """A host that the proxy does not let us reach is that link's, and no reason to stop."""
    async with company(tmp_path) as outside:
        outside.proxy.ports.pop(FILES)
        with pytest.raises(OriginError, match="does not get through") as caught:
            await fetch(outside.environ)
        assert_keeps_secrets(caught.value)


async def test_a_proxy_that_is_not_there_is_named(tmp_path):
    """A refused connection to the proxy is told as that, with the variable."""
    async with company(tmp_path, auth=True) as outside:
        gone = outside.environ
    with pytest.raises(OriginError, match=r"the proxy \(HTTPS_PROXY or api.proxy\) cannot be connected to") as caught:
        await fetch(gone)
    assert PASSWORD not in everything_said(caught.value)


async def test_what_no_proxy_names_is_reached_directly(tmp_path):
    """A host inside, and this machine at all times, is connected to without the proxy."""
    async with company(tmp_path) as outside:
        for host, inside in (("localhost", ""), ("127.0.0.1", "127.0.0.0/8")):
            outside.api.on("/", reply(200, f'{{"url": "https://{host}:{outside.files.port}/a"}}'.encode()))
            way = outside.environ | {"NO_PROXY": inside}
            assert await fetch(way, url=f"https://{host}:{outside.api.port}") == PDF
        assert outside.proxy.heads == []


async def test_a_private_authority_without_a_proxy(tmp_path):
    """The file of the authority is all that it takes; without it the refusal names the variable."""
    async with company(tmp_path) as outside:
        outside.api.on("/", reply(200, f'{{"url": "https://127.0.0.1:{outside.files.port}/a"}}'.encode()))
        url = f"https://127.0.0.1:{outside.api.port}"
        assert await fetch({"SSL_CERT_FILE": str(outside.ca_file)}, url=url) == PDF
        with pytest.raises(FatalError, match=r"not trusted; .* goes into SSL_CERT_FILE or api\.ca_file"):
            await fetch({}, url=url)


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("https://10.0.0.1/a", "local address"),
        ("https://[::ffff:169.254.169.254]/a", "local address"),
        ("https://127.1/a", "usual form"),
        ("https://0x7f.0.0.1/a", "usual form"),
        ("https://%31%32%37.0.0.1/a", "usual form"),
        ("https://metadata%2egoogle%2einternal/a", "not a host name"),
        ("http://files.outside.example/a", "plain HTTP"),
        (f"https://{FILES}:8443/a", "port 8443"),
    ],
)
async def test_the_proxy_is_not_asked_for_what_is_spelt_local(tmp_path, link, problem):
    """Behind a proxy a link is judged as it is spelt, before the proxy hears of it."""
    async with company(tmp_path, link=link) as outside:
        with pytest.raises(PermanentError, match=problem):
            await fetch(outside.environ)
        assert outside.proxy.targets == [f"{API}:443"]


async def test_link_hosts_hold_behind_a_proxy(tmp_path):
    """A host that is not listed is not asked for through the proxy either."""
    async with company(tmp_path) as outside:
        assert await fetch(outside.environ, link_hosts=(FILES,)) == PDF
        with pytest.raises(PermanentError, match=r"not in api\.link_hosts"):
            await fetch(outside.environ, link_hosts=("other.example",))
        assert outside.proxy.targets == [f"{API}:443", f"{FILES}:443", f"{API}:443"]


async def test_plain_links_do_not_go_through_a_proxy(tmp_path):
    """Where the API is local and in the clear, links to it go directly, and plain links to elsewhere are refused."""
    async with fault_server() as api, connect_proxy({}) as proxy:
        api.on("/a.pdf", reply(200, PDF))
        api.on("/invoices", reply(200, f'{{"url": "{api.url}/a.pdf"}}'.encode()))
        assert await fetch({"HTTPS_PROXY": proxy.url}, url=api.url) == PDF
        api.on("/invoices", reply(200, b'{"url": "http://files.outside.example/a.pdf"}'))
        with pytest.raises(PermanentError, match=r"plain HTTP, which a proxy could read.*NO_PROXY"):
            await fetch({"HTTPS_PROXY": proxy.url}, url=api.url)
        assert proxy.heads == []


async def test_the_variable_that_is_missing_is_named(monkeypatch):
    """Where no name resolves, the message says which variable a company needs, and which one is of no use."""
    resolve_only(monkeypatch, {})
    for environ, words in (
        ({}, "where only a proxy leads out, set HTTPS_PROXY"),
        ({"http_proxy": "http://p:1"}, "HTTP_PROXY is set, but https goes by HTTPS_PROXY, which is not"),
        ({"ALL_PROXY": "socks5://p:1"}, "ALL_PROXY is set, but"),
    ):
        with pytest.raises(FatalError, match=f"does not resolve.*{words}"):
            await fetch(environ, url="https://nowhere.example")
    with pytest.raises(FatalError, match=r"^the proxy \(HTTPS_PROXY or api.proxy\): the host name .* not resolve"):
        await fetch({"HTTPS_PROXY": "nowhere.example:3128"})


async def test_an_unused_variable_is_told_at_the_start(tmp_path):
    """A run that gets out without a proxy still hears that a variable has no effect."""
    async with company(tmp_path) as outside:
        outside.api.on("/", reply(200, f'{{"url": "https://127.0.0.1:{outside.files.port}/a"}}'.encode()))
        told: list[Note] = []
        environ = {"SSL_CERT_FILE": str(outside.ca_file), "HTTP_PROXY": "http://me:pr0xy-c4n4ry@p:1"}
        assert await fetch(environ, url=f"https://127.0.0.1:{outside.api.port}", notify=told.append) == PDF
        assert [note.message for note in told if isinstance(note, Note)] == [
            "API, links and bucket are reached directly; HTTP_PROXY is set, but https goes by HTTPS_PROXY, which is not"
        ]


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTPS_PROXY": "socks5://me:pr0xy-c4n4ry@p:1"},
        {"HTTPS_PROXY": "https://me:pr0xy-c4n4ry@p:1"},
        {"HTTPS_PROXY": "http://me:pr0xy-c4n4ry@p:1/path"},
        {"HTTPS_PROXY": "http://me:pr0xy-c4n4ry@p:nan"},
        {"SSL_CERT_FILE": "/no/such/pr0xy-file"},
        {"SSL_CERT_FILE": __file__},
    ],
)
def test_what_cannot_be_used_is_refused(environ):
    """A proxy of another kind, or a file without a certificate, is an error of usage that shows no password."""
    with pytest.raises(UsageError, match=f"^(the proxy \\()?{next(iter(environ))} or api") as caught:
        Egress.of(environ)
    assert PASSWORD not in str(caught.value)
