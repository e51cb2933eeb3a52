"""Which addresses are public, and what spells one."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.net.addresses import is_public, literal


@given(st.ip_addresses(v=4))
def test_an_address_inside_ipv6_counts_as_itself(address):
    """Mapped, 6to4 and NAT64 forms of an IPv4 address are as public as the address."""
    bits = int(address)
    for wrapped in ((0xFFFF << 32) | bits, (0x2002 << 112) | (bits << 80), (0x64FF9B << 96) | bits):
        assert is_public(ipaddress.IPv6Address(wrapped)) == is_public(address)


def test_what_spells_an_address():
    """Only the standard spellings are addresses; names are not."""
    assert literal("127.0.0.1") == ipaddress.ip_address("127.0.0.1")
    assert literal("fe80::1%eth0") == ipaddress.ip_address("fe80::1")
    assert literal("127.1") is None
    assert literal("files.example") is None
