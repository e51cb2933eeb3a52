"""Which hosts are public, what spells an address, and what may go to whom in the clear."""

import ipaddress
import time

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.resolver import resolve_only

from bulkfetch.errors import UsageError
from bulkfetch.net.addresses import UnresolvedHost, is_local, is_number, is_public, literal, refuse_in_the_clear

NAMES = {
    "home.example": ["127.0.0.1", "::1"],
    "office.example": ["10.1.2.3", "fd00::1"],
    "world.example": ["8.8.8.8"],
    "six.example": ["2606:4700::1111"],
    "mixed.example": ["127.0.0.1", "8.8.8.8"],
    "mapped.example": ["::ffff:8.8.8.8"],
}


@given(st.ip_addresses(v=4))
def test_an_address_inside_ipv6_counts_as_itself(address):
    """Compatible, mapped, translated, 6to4 and NAT64 forms of an IPv4 address are as public as the address."""
    bits = int(address)
    low = ((prefix << 32) | bits for prefix in (0, 0xFFFF, 0xFFFF << 16, 0x64FF9B << 64))
    for wrapped in (*low, (0x2002 << 112) | (bits << 80)):
        assert is_public(ipaddress.IPv6Address(wrapped)) == is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "::ffff:0:169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "64:ff9b:1:ffff::1",
        "fec0::1",
        "feff::1",
        "fe80::1",
        "fd00::1",
        "2001:0:808:808::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:127.0.0.1",
        "3fff::1",
        "5f00::1",
        "100::1",
        "ff0e::1",
        "::",
        "::1",
        "192.0.0.192",
        "168.63.129.16",
        "100.100.100.200",
        "198.18.0.1",
        "255.255.255.255",
    ],
)
def test_what_is_no_address_of_the_public_internet(address):
    """Local, translated to local, of a cloud's own, of a tunnel, or of no network that there is yet."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("host", "number"),
    [
        ("127.1", True),
        ("2130706433", True),
        ("0177.0.0.1", True),
        ("0x7f.0.0.1", True),
        ("0X7F000001", True),
        ("0x", True),
        ("127.0.0.1.", True),
        ("127.0.0.1..", True),
        ("anything.0x7f", True),
        ("anything.127", True),
        ("127\u30020\u30020\u30021", True),
        ("127\uff0e0\uff0e0\uff0e1", True),
        ("\u2460\u2461\u2466.0.0.\u2460", True),
        ("\uff11\uff12\uff17.0.0.1", True),
        ("1.files.example", False),
        ("0x7f.example", False),
        ("3com.example", False),
        ("xn--9", False),
        ("", False),
    ],
)
def test_what_spells_a_number(host, number):
    """A host whose last part is a number is an address to somebody, however it is written; a name never ends so."""
    assert is_number(host) is number


def test_what_spells_an_address():
    """Only the standard spellings are addresses; names are not."""
    assert literal("127.0.0.1") == ipaddress.ip_address("127.0.0.1")
    assert literal("fe80::1%eth0") == ipaddress.ip_address("fe80::1")
    assert literal("127.1") is None
    assert literal("files.example") is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("8.8.8.8", False),
        ("::ffff:8.8.8.8", False),
        ("home.example", True),
        ("office.example", True),
        ("world.example", False),
        ("six.example", False),
        ("mixed.example", False),
        ("mapped.example", False),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "nats"])
async def test_what_may_go_in_the_clear(monkeypatch, scheme, host, local):
    """Without TLS only a host may be spoken to all of whose addresses are local; with TLS any may, and is not asked
    for."""
    asked = resolve_only(monkeypatch, NAMES)
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:4222/path"
    assert await is_local(host, label="the host") is local
    if local:
        await refuse_in_the_clear(url, label="the setting", exposed="the token")
    else:
        with pytest.raises(
            UsageError, match=rf"^the setting: plain {scheme}://.* show the token .*use (https|tls)://$"
        ):
            await refuse_in_the_clear(url, label="the setting", exposed="the token")
    asked.clear()
    for with_tls in ("https", "tls", "wss"):
        await refuse_in_the_clear(url.replace(scheme, with_tls, 1), label="the setting", exposed="the token")
    assert asked == []


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["nowhere.example", "", "a..b", "x" * 64])
async def test_a_name_without_an_address_is_an_error_of_its_own(monkeypatch, host):
    """A name that does not resolve is neither local nor public, and no error of usage: the resolver may be down."""
    resolve_only(monkeypatch, NAMES)
    with pytest.raises(UnresolvedHost, match=r"^api\.url: the host name .*does not resolve"):
        await is_local(host, label="api.url")


@pytest.mark.anyio
async def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch):
    """A look-up has a bound of its own: the system's resolver may try for minutes."""
    monkeypatch.setattr("bulkfetch.net.addresses.RESOLVE_TIMEOUT", 0.05)
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: time.sleep(0.5))
    with anyio.fail_after(0.4), pytest.raises(UnresolvedHost, match="does not resolve"):
        await is_local("slow.example", label="api.url")
