"""A bucket that is reached through a proxy, and whose certificate a private authority signs."""

import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme
from support.buckets import connected
from support.connect_proxy import PASSWORD, connect_proxy, tls_front
from support.doubles import GivenBody
from support.edges import PDF, everything_said
from support.puts import put
from support.seaweed import Seaweed

from bulkfetch.config import Destination
from bulkfetch.errors import FatalError, OriginError

pytestmark = pytest.mark.anyio

HOST = "s3.outside.example"
SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_way_out_of_the_process(monkeypatch):
    """What the process's own environment says of proxies leads nowhere."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, DEAD)


@asynccontextmanager
async def company(seaweed: Seaweed, tmp_path: Path, **proxy_options):
    """The store outside, behind TLS, and a proxy that leads there."""
    authority = trustme.CA()
    ca_file = tmp_path / "company-ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, "127.0.0.1").configure_cert(served)
    async with tls_front(served, seaweed.port) as port, connect_proxy({HOST: port}, **proxy_options) as proxy:
        environ = {"AWS_ENDPOINT_URL": f"https://{HOST}", "HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(ca_file)}
        yield SimpleNamespace(proxy=proxy, port=port, environ=environ, ca_file=ca_file)


async def store_one(seaweed: Seaweed, spool: Path, environ, **settings) -> None:
    bucket = seaweed.bucket(lock="on")
    to = Destination(url=f"s3://{bucket}/invoices", **settings)
    async with connected(to, seaweed, spool=spool, environ=environ) as store:
        await put(store, "INV-1.pdf", GivenBody(PDF))
    assert "invoices/INV-1.pdf" in seaweed.keys(bucket)


async def test_a_bucket_outside(seaweed: Seaweed, tmp_path: Path) -> None:
    """Every request for the bucket, locks included, goes through the proxy, which sees none of it."""
    async with company(seaweed, tmp_path, auth=True) as outside:
        await store_one(seaweed, tmp_path, outside.environ, lock_mode="GOVERNANCE", lock_days=1)
        assert set(outside.proxy.targets) == {f"{HOST}:443"}
        passed = bytes(outside.proxy.seen) + "".join(outside.proxy.heads).encode()
        assert seaweed.environ["AWS_ACCESS_KEY_ID"].encode() not in passed
        assert b"INV-1" not in passed


def add_to_the_systems(ca_file: Path) -> None:
    systems = SYSTEM.read_text() if SYSTEM.exists() else ""
    ca_file.write_text(f"{systems}\n# M\u00fcller's own\n{ca_file.read_text()}")


async def test_a_whole_bundle_of_authorities(seaweed: Seaweed, tmp_path: Path) -> None:
    """A file with the system's authorities and one's own serves as well, wherever in it one's own stands."""
    async with company(seaweed, tmp_path) as outside:
        add_to_the_systems(outside.ca_file)
        await store_one(seaweed, tmp_path, outside.environ)


async def test_a_bucket_inside(seaweed: Seaweed, tmp_path: Path) -> None:
    """What NO_PROXY names, and what is in the clear, is reached directly; the process's own variables mean nothing."""
    async with company(seaweed, tmp_path) as outside:
        direct = {"AWS_ENDPOINT_URL": f"https://127.0.0.1:{outside.port}", "NO_PROXY": "127.0.0.0/8"}
        await store_one(seaweed, tmp_path, outside.environ | direct)
        await store_one(seaweed, tmp_path, {"AWS_ENDPOINT_URL": seaweed.endpoint, "HTTPS_PROXY": outside.proxy.url})
        await store_one(seaweed, tmp_path, {})
        assert outside.proxy.heads == []


async def test_an_authority_that_is_not_known(seaweed: Seaweed, tmp_path: Path) -> None:
    """Without the authority's file the certificate is refused, and the message names where it goes."""
    async with company(seaweed, tmp_path) as outside:
        with pytest.raises(FatalError, match=r"cannot be verified; .* goes into SSL_CERT_FILE or api\.ca_file"):
            await store_one(seaweed, tmp_path, outside.environ | {"SSL_CERT_FILE": ""})


async def test_a_proxy_that_wants_another_password(seaweed: Seaweed, tmp_path: Path) -> None:
    """A refused password stops the run, and is not shown."""
    async with company(seaweed, tmp_path, auth=True) as outside:
        wrong = outside.environ | {"HTTPS_PROXY": outside.proxy.url.replace("al%40ice", "bob")}
        with pytest.raises(FatalError, match=r"HTTPS_PROXY or api\.proxy.*password") as caught:
            await store_one(seaweed, tmp_path, wrong)
        assert PASSWORD not in everything_said(caught.value)


async def test_a_proxy_that_does_not_get_through(seaweed: Seaweed, tmp_path: Path) -> None:
    """A proxy that cannot reach the store is an outage of the store, for a while."""
    async with company(seaweed, tmp_path, status=502) as outside:
        with pytest.raises(
            (OriginError, FatalError), match=r"HTTPS_PROXY or api\.proxy\) does not get through"
        ) as caught:
            await store_one(seaweed, tmp_path, outside.environ)
        assert PASSWORD not in everything_said(caught.value)
