"""How a worker gets to a NATS server: URLs, credentials of every kind, TLS; what is refused names no secret."""

import base64
import json
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
import nkeys
import pytest
import trustme
from support.nats_help import dead_letter, opened
from support.nats_server import nats_server
from support.resolver import resolve_only

from bulkfetch.errors import FatalError, UsageError
from bulkfetch.queues import open_queue
from bulkfetch.queues.jetstream.address import NatsAddress
from bulkfetch.queues.jetstream.credentials import NatsAccess

pytestmark = pytest.mark.anyio

SECRET = "c4n4ry-secret"
URL = "nats://127.0.0.1:4222/invoices"


async def works(url, environ) -> None:
    """A message can be put, fetched and acknowledged."""
    async with opened(url, environ) as queue:
        assert await queue.put([("A", b"A")]) == 1
        (lease,) = await queue.fetch(1, 20.0)
        await queue.ack(lease)


async def refused(url, environ, words, *, within=20.0) -> None:
    """There is no way in; that is said soon, and without a secret."""
    with anyio.fail_after(within), pytest.raises(FatalError, match=words) as caught:
        async with opened(url, environ):
            pass
    assert SECRET not in str(caught.value)


def new_seed(prefix=nkeys.PREFIX_BYTE_USER) -> tuple[str, str]:
    """A new seed and its public key."""
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_user_and_password() -> None:
    """NATS_USER and NATS_PASSWORD let in; a wrong password, and none, do not."""
    with nats_server("--user", "worker", "--pass", SECRET) as server:
        await works(server.queue(), {"NATS_USER": "worker", "NATS_PASSWORD": SECRET})
        wrong = {"NATS_USER": "worker", "NATS_PASSWORD": f"{SECRET}-wrong"}
        await refused(server.queue(), wrong, "[Aa]uthorization.*check the address, the credentials")
        await refused(server.queue(), {}, "[Aa]uthorization")


async def test_token() -> None:
    """NATS_TOKEN lets in; a wrong one does not."""
    with nats_server("--auth", SECRET) as server:
        await works(server.queue(), {"NATS_TOKEN": SECRET})
        await refused(server.queue(), {"NATS_TOKEN": f"{SECRET}-wrong"}, "[Aa]uthorization")


async def test_nkey(tmp_path) -> None:
    """NATS_NKEY, a file with a seed, lets in; another user's seed does not, and a file without one is told."""
    seed, public = new_seed()
    stranger, _ = new_seed()
    for name, text in (("seed", f"{seed}\n"), ("stranger", stranger), ("empty", ""), ("junk", SECRET)):
        (tmp_path / name).write_text(text)
    with nats_server(config=f"authorization {{ users: [ {{ nkey: {public} }} ] }}") as server:
        await works(server.queue(), {"NATS_NKEY": str(tmp_path / "seed")})
        await refused(server.queue(), {"NATS_NKEY": str(tmp_path / "stranger")}, "[Aa]uthorization")
        for name in ("empty", "junk"):
            await refused(server.queue(), {"NATS_NKEY": str(tmp_path / name)}, "NATS_NKEY: the file holds no seed")
        await refused(server.queue(), {"NATS_NKEY": str(tmp_path / "none")}, "NATS_NKEY: .* cannot be read")


def jwt(claims, signer) -> str:
    """A NATS JWT, signed by the key pair `signer`."""

    def part(value: object) -> str:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    body = {"iat": int(time.time()), "iss": signer.public_key.decode(), "jti": "x", **claims}
    head = part({"typ": "JWT", "alg": "ed25519-nkey"}) + "." + part(body)
    return f"{head}.{part(signer.sign(head.encode()))}"


def pair(seed: str) -> nkeys.KeyPair:
    """The key pair of `seed`."""
    return nkeys.from_seed(bytearray(seed.encode()))


@contextmanager
def server_with_operator():
    """A server whose accounts are signed by an operator; with a function that gives a user's credentials."""
    operator_seed, _ = new_seed(nkeys.PREFIX_BYTE_OPERATOR)
    account_seed, account = new_seed(nkeys.PREFIX_BYTE_ACCOUNT)
    _, system = new_seed(nkeys.PREFIX_BYTE_ACCOUNT)
    operator = pair(operator_seed)
    limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    nats = {"type": "account", "version": 2}
    account_claims = {"name": "A", "sub": account, "nats": nats | {"limits": limits | storage}}
    system_claims = {"name": "S", "sub": system, "nats": nats | {"limits": limits}}
    operator_claims = {"name": "O", "sub": operator.public_key.decode(), "nats": {"type": "operator", "version": 2}}
    config = (
        f"operator: {jwt(operator_claims, operator)}\nresolver: MEMORY\nsystem_account: {system}\n"
        f"resolver_preload: {{\n{account}: {jwt(account_claims, operator)}\n"
        f"{system}: {jwt(system_claims, operator)}\n}}\n"
    )

    def creds(signer: nkeys.KeyPair | None = None) -> str:
        seed, user = new_seed()
        unlimited = {"subs": -1, "data": -1, "payload": -1}
        claims = {"name": "worker", "sub": user, "nats": {"type": "user", "version": 2} | unlimited}
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt(claims, signer or pair(account_seed))}\n"
            "------END NATS USER JWT------\n"
            f"\n*** IMPORTANT ***\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )

    with nats_server(config=config) as server:
        yield server, creds


async def test_credentials_file(tmp_path) -> None:
    """NATS_CREDS, a file as `nsc` writes it, lets in, with CRLF, too; another account's does not; a file that is none,
    or half of one, is told at once."""
    with server_with_operator() as (server, creds):
        good, stranger = creds(), creds(pair(new_seed(nkeys.PREFIX_BYTE_ACCOUNT)[0]))
        files = {
            "good": good,
            "crlf": good.replace("\n", "\r\n"),
            "stranger": stranger,
            "half": good.partition("***")[0],
        }
        files |= {
            "junk": f"{SECRET}\n" * 3,
            "binary": "\xff\xfe",
            "seed": "".join(good.partition("-----BEGIN USER")[1:]),
        }
        for name, text in files.items():
            (tmp_path / name).write_bytes(text.encode("latin-1"))
        await works(server.queue(), {"NATS_CREDS": str(tmp_path / "good")})
        await works(server.queue(), {"NATS_CREDS": str(tmp_path / "crlf")})
        await refused(server.queue(), {"NATS_CREDS": str(tmp_path / "stranger")}, "[Aa]uthorization")
        for name in ("half", "junk", "binary", "seed"):
            await refused(server.queue(), {"NATS_CREDS": str(tmp_path / name)}, "NATS_CREDS: .*holds no")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA, and what it signed: files for a server and a client, and the CA of somebody else."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
    for name, issued in (("server", ca.issue_cert("127.0.0.1")), ("client", ca.issue_cert("worker"))):
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(folder / f"{name}.pem", append=True)
    return folder


async def test_tls(certificates) -> None:
    """tls:// with NATS_CA or SSL_CERT_FILE lets in; the wrong CA, or the machine's, is refused soon; so is a name that
    the certificate does not have."""
    args = ("--tls", f"--tlscert={certificates}/server.pem", f"--tlskey={certificates}/server.key")
    with nats_server(*args) as server:
        await works(server.queue("tls"), {"NATS_CA": f"{certificates}/ca.pem"})
        await works(server.queue("nats"), {"NATS_CA": f"{certificates}/ca.pem"})
        for scheme in ("tls", "nats"):
            await works(server.queue(scheme), {"SSL_CERT_FILE": f"{certificates}/ca.pem"})
        await refused(server.queue("tls"), {"NATS_CA": f"{certificates}/other-ca.pem"}, "CERTIFICATE_VERIFY_FAILED")
        await refused(server.queue("tls"), {}, "CERTIFICATE_VERIFY_FAILED")
        await refused(
            server.queue("tls", "localhost"), {"NATS_CA": f"{certificates}/ca.pem"}, "CERTIFICATE_VERIFY_FAILED"
        )


async def test_client_certificate(certificates) -> None:
    """Where the server asks for a client's certificate, NATS_CERT and NATS_KEY let in; without them nobody gets in."""
    args = ("--tlsverify", f"--tlscert={certificates}/server.pem", f"--tlskey={certificates}/server.key")
    environ = {"NATS_CA": f"{certificates}/ca.pem"}
    with nats_server(*args, f"--tlscacert={certificates}/ca.pem") as server:
        own = {"NATS_CERT": f"{certificates}/client.pem", "NATS_KEY": f"{certificates}/client.key"}
        await works(server.queue("tls"), environ | own)
        await refused(server.queue("tls"), environ, "certificate")


async def test_nothing_is_said_in_the_clear_over_tls(nats) -> None:
    """tls:// to a server that wants no TLS ends before a password is sent, though the client would go on without."""
    heard = b""

    async def listen(stream) -> None:
        nonlocal heard
        async with stream:
            await stream.send(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576}\r\n')
            try:
                while True:
                    heard += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, listen)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        environ = {"NATS_USER": "worker", "NATS_PASSWORD": SECRET}
        await refused(f"tls://127.0.0.1:{port}/invoices", environ, "secure connection not available")
        tasks.cancel_scope.cancel()
    assert heard == b""
    await refused(nats.queue("tls"), environ, "secure connection not available")


BAD_ACCESS = {
    "exclude each other": {"NATS_TOKEN": SECRET, "NATS_USER": "worker"},
    "NATS_PASSWORD is of no use without NATS_USER": {"NATS_PASSWORD": SECRET},
    "NATS_KEY is of no use without NATS_CERT": {"NATS_KEY": "/nowhere"},
    "NATS_CA, NATS_CERT or NATS_KEY cannot be used": {"NATS_CA": "/nowhere"},
}


@pytest.mark.parametrize("words", BAD_ACCESS)
async def test_contradictory_variables_are_refused(words) -> None:
    """Variables that cannot be meant together are an error, not ignored."""
    with pytest.raises(UsageError, match=words):
        NatsAccess.of(NatsAddress.parse(URL), BAD_ACCESS[words])


@pytest.mark.parametrize("content", ["", SECRET, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_certificates_that_are_none_are_refused(tmp_path, content) -> None:
    """A file that holds no certificate, or no key for it, is an error of configuration."""
    file = tmp_path / "file.pem"
    file.write_text(content)
    for name in ("NATS_CA", "NATS_CERT"):
        with pytest.raises(UsageError, match="NATS_CA, NATS_CERT or NATS_KEY cannot be used"):
            NatsAccess.of(NatsAddress.parse(URL), {name: str(file)})


@pytest.mark.parametrize(
    "url",
    [
        f"nats://worker:{SECRET}@host/invoices",
        f"nats://worker:{SECRET}/x@host/invoices",
        f"tls://{SECRET}@host/invoices",
        f"nats://host,worker:{SECRET}@other/invoices",
        f"redis://worker:{SECRET}@host/invoices",
    ],
)
async def test_a_url_with_credentials_is_refused(url) -> None:
    """A URL that holds a password is refused, and not repeated."""
    with pytest.raises(UsageError) as caught:
        async with open_queue(url, {}, notify=print):
            pass
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "nats://host",
        "nats://host/",
        "nats:///invoices",
        "nats://host/in voices",
        "nats://host/a.b",
        "nats://host/a/b",
        "nats://host/invoices?x=1",
        "nats://host:99999/invoices",
        "nats://host:0/invoices",
        "nats://host:x/invoices",
        "nats://a b/invoices",
        "nats://::1/invoices",
        "nats://[::1/invoices",
        "nats://[127.0.0.1]/invoices",
        "nats://host,/invoices",
        "nats://host/" + "x" * 101,
    ],
)
async def test_a_url_that_names_no_stream_is_refused(url) -> None:
    """What is no nats://host:port/stream is an error of usage, and is shown."""
    with pytest.raises(UsageError, match=r"^queue nats://"):
        NatsAddress.parse(url)


async def test_urls() -> None:
    """Ports have a default, several hosts stand between commas, and an IPv6 address in brackets."""
    address = NatsAddress.parse("tls://a.example,10.0.0.1:5222,[fd00::1],[::1]:6222/invoices")
    assert address.servers == (
        "tls://a.example:4222",
        "tls://10.0.0.1:5222",
        "tls://[fd00::1]:4222",
        "tls://[::1]:6222",
    )
    assert (address.stream, address.only_tls) == ("invoices", True)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]", "127.0.0.1,8.8.8.8:4222", "[::ffff:8.8.8.8]"])
@pytest.mark.parametrize("environ", [{}, {"NATS_TOKEN": SECRET}, {"NATS_USER": "worker", "NATS_PASSWORD": SECRET}])
async def test_nothing_travels_in_the_clear_to_a_public_address(host, environ) -> None:
    """A public address is refused over nats:// before any connection, with or without a password; over tls:// it may
    be spoken to."""
    await refused(f"nats://{host}/invoices", environ, "plain nats:// to a public host would show .*; use tls://")
    address = NatsAddress.parse(f"tls://{host}/invoices")
    assert await address.allowed_servers() == address.servers


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port that greets as a NATS server does, and what it has heard: an empty entry for each connection."""
    heard: list[bytes] = []

    async def listen(stream) -> None:
        heard.append(b"")
        async with stream:
            await stream.send(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576}\r\n')
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    heard.append(await stream.receive())

    server = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, listen)
        yield server.extra(anyio.abc.SocketAttribute.local_port), heard
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("names", ["public.example", "private.example,public.example", "public.example,gone.example"])
async def test_a_name_with_a_public_address_is_not_connected_to(monkeypatch, names) -> None:
    """A name is refused over nats:// where one of its addresses is public, before even a local one is connected to."""
    resolve_only(monkeypatch, {"public.example": ["127.0.0.1", "8.8.8.8"], "private.example": ["127.0.0.1"]})
    async with listener() as (port, heard):
        hosts = ",".join(f"{name}:{port}" for name in names.split(","))
        environ = {"NATS_USER": "worker", "NATS_PASSWORD": SECRET}
        await refused(f"nats://{hosts}/invoices", environ, "to a public host would show messages and passwords")
    assert heard == []


async def test_names_of_a_private_network(monkeypatch, nats) -> None:
    """A name with local addresses only is connected to; one that does not resolve does no harm beside it, and alone
    is told of."""
    resolve_only(monkeypatch, {"private.example": ["127.0.0.1"]})
    url = nats.queue(host="private.example")
    await works(url.replace("nats://", "nats://gone.example,"), {})
    await refused("nats://gone.example/invoices", {}, "the host name gone.example does not resolve")


async def test_credentials_are_in_no_repr() -> None:
    """What shows an access shows no secret."""
    assert SECRET not in repr(NatsAccess.of(NatsAddress.parse(URL), {"NATS_TOKEN": SECRET}))


async def test_several_servers(nats, monkeypatch) -> None:
    """One of several servers is enough: one that refuses, and one that takes connections and says nothing, do not
    hide it; if there is none, that is said in time."""
    silent = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = silent.extra(anyio.abc.SocketAttribute.local_port)
    stream = nats.queue().rpartition("/")[2]
    monkeypatch.setattr("bulkfetch.queues.jetstream.connection.CONNECT_TIMEOUT", 6.0)
    async with silent:
        for _ in range(2):
            with anyio.fail_after(20):
                async with opened(f"nats://127.0.0.1:1,127.0.0.1:{port},{nats.address}/{stream}") as queue:
                    await queue.stats()
        monkeypatch.setattr("bulkfetch.queues.jetstream.connection.CONNECT_TIMEOUT", 1.2)
        monkeypatch.setattr("bulkfetch.queues.jetstream.connection.SHORTEST_TRY", 0.4)
        began = anyio.current_time()
        await refused(f"nats://127.0.0.1:1,127.0.0.1:{port}/{stream}", {}, "no connection.*check")
        assert anyio.current_time() - began > 1.0


async def test_ipv6() -> None:
    """An IPv6 address in brackets is connected to."""
    with nats_server(host="::1") as server:
        await works(server.queue(host="[::1]"), {})


LIMITED = """
authorization {{ users: [
  {{ user: admin, password: a }}
  {{ user: worker, password: w, permissions: {{ {side}: {{ deny: [{denied}] }} }} }}
] }}
"""

DENIED = {
    "bulkfetch.*.ids.*": "publish",
    "bulkfetch.*.dead.*": "publish",
    "$JS.ACK.>": "publish",
    "$JS.API.CONSUMER.MSG.NEXT.>": "publish",
    "$JS.API.CONSUMER.INFO.>": "publish",
    "$JS.API.STREAM.INFO.>": "publish",
    "$KV.>": "publish",
    "_INBOX.>": "subscribe",
}


@pytest.mark.parametrize("denied", DENIED)
async def test_a_missing_permission_is_an_error_not_a_silence(denied) -> None:
    """What the server does not let a user do, and never answers, is told by its name within seconds."""
    config = LIMITED.format(side=DENIED[denied], denied=json.dumps(denied))
    with nats_server(config=config) as server:
        url = server.queue()
        async with opened(url, {"NATS_USER": "admin", "NATS_PASSWORD": "a"}) as theirs:
            await theirs.put([("A", b"A"), ("B", b"B")])
            with anyio.fail_after(30), pytest.raises(FatalError) as caught:
                async with opened(url, {"NATS_USER": "worker", "NATS_PASSWORD": "w"}) as queue:
                    await everything(queue)
        assert "the credentials do not allow what is needed: " in str(caught.value)
        assert "permissions violation" in str(caught.value)


async def everything(queue) -> None:
    """What a worker does, with what fails softly made sure of."""
    async with queue.shared_rate("api", rate=100.0, patience=5.0, on_pause=print) as share:
        await share.reserve()
        first, second = await queue.fetch(2, 0.5)
        await queue.extend([first])
        await queue.ack(first)
        await queue.put([("C", b"C")])
        await queue.dead(second, dead_letter("B"))


async def test_a_tls_context_checks_names_and_certificates() -> None:
    """The context for TLS is Python's strict default."""
    access = NatsAccess.of(NatsAddress.parse("tls://host/invoices"), {})
    context = access.options["tls"]
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
