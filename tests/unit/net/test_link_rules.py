"""Which links may be opened: hosts, addresses, schemes and ports."""

import socket

import pytest
from aiohttp.abc import AbstractResolver
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from bulkfetch.net.link_rules import BlockedAddressError, CheckedResolver, LinkRules

STRICT = LinkRules(hosts=(), allow_local=False, allow_http=False)


def listing(*hosts, allow_http=False):
    return LinkRules(hosts=hosts, allow_local=False, allow_http=allow_http)


@pytest.mark.parametrize(
    ("rules", "url", "problem"),
    [
        (STRICT, "https://files.example/a?b=c", None),
        (STRICT, "https://8.8.8.8/a", None),
        (STRICT, "https://[2606:4700::1111]/a", None),
        (STRICT, "http://files.example/a", "plain HTTP"),
        (STRICT, "file:///etc/passwd", "not an http"),
        (STRICT, "ftp://files.example/a", "not an http"),
        (STRICT, "gopher://files.example/a", "not an http"),
        (STRICT, "/documents/1", "not an http"),
        (STRICT, "//files.example/a", "not an http"),
        (STRICT, "", "not an http"),
        (STRICT, "https:///a", "not an http"),
        (STRICT, "https://user:pw@files.example/a", "user information"),
        (STRICT, "https://user@files.example/a", "user information"),
        (STRICT, "https://files.example:8443/a", "port 8443"),
        (STRICT, "https://files.example:22/a", "port 22"),
        (STRICT, "https://127.0.0.1/a", "local address"),
        (STRICT, "https://10.1.2.3/a", "local address"),
        (STRICT, "https://172.16.0.1/a", "local address"),
        (STRICT, "https://192.168.1.1/a", "local address"),
        (STRICT, "https://100.64.0.1/a", "local address"),
        (STRICT, "https://169.254.169.254/latest", "local address"),
        (STRICT, "https://0.0.0.0/a", "local address"),
        (STRICT, "https://224.0.0.1/a", "local address"),
        (STRICT, "https://127.1/a", "usual form"),
        (STRICT, "https://2130706433/a", "usual form"),
        (STRICT, "https://0177.0.0.1/a", "usual form"),
        (STRICT, "https://127.0.0.1./a", "usual form"),
        (STRICT, "https://\uff11\uff12\uff17.0.0.1/a", "usual form"),
        (STRICT, "https://0x7f.0.0.1/a", "usual form"),
        (STRICT, "https://0x7f000001/a", "usual form"),
        (STRICT, "https://017700000001/a", "usual form"),
        (STRICT, "https://127\u30020\u30020\u30021/a", "usual form"),
        (STRICT, "https://\u2460\u2461\u2466.0.0.1/a", "usual form"),
        (STRICT, "https://%31%32%37.0.0.1/a", "usual form"),
        (STRICT, "https://files%2eexample/a", "not a host name"),
        (STRICT, "https://b\u00fccher.example/a", "not an http"),
        (STRICT, "https://xn--bcher-kva.example/a", None),
        (STRICT, "https://[::127.0.0.1]/a", "local address"),
        (STRICT, "https://[::ffff:0:127.0.0.1]/a", "local address"),
        (STRICT, "https://[64:ff9b:1::7f00:1]/a", "local address"),
        (STRICT, "https://[fec0::1]/a", "local address"),
        (STRICT, "https://[2001:0:808:808::]/a", "local address"),
        (STRICT, "https://[::1]/a", "local address"),
        (STRICT, "https://[::]/a", "local address"),
        (STRICT, "https://[fe80::1%25eth0]/a", "local address"),
        (STRICT, "https://[fd00:ec2::254]/a", "local address"),
        (STRICT, "https://[::ffff:127.0.0.1]/a", "local address"),
        (STRICT, "https://[64:ff9b::7f00:1]/a", "local address"),
        (STRICT, "https://[2002:7f00:1::]/a", "local address"),
        (listing("files.example"), "https://files.example/a", None),
        (listing("files.example"), "https://FILES.Example./a", None),
        (listing("Files.Example"), "https://files.example/a", None),
        (listing("files.example"), "https://a.files.example/a", "link_hosts"),
        (listing("files.example"), "https://files.example.evil.example/a", "link_hosts"),
        (listing(".files.example"), "https://a.b.files.example/a", None),
        (listing(".files.example"), "https://files.example/a", None),
        (listing(".files.example"), "https://evilfiles.example/a", "link_hosts"),
        (listing("files.example:8443"), "https://files.example:8443/a", None),
        (listing("files.example:8443"), "https://files.example/a", "link_hosts"),
        (listing("127.0.0.1"), "https://127.0.0.1/a", None),
        (listing("files.example"), "https://127.0.0.1/a", "link_hosts"),
        (listing("files.example"), "http://files.example/a", "plain HTTP"),
        (listing("files.example"), "https://user@files.example/a", "user information"),
        (LinkRules(hosts=(), allow_local=True, allow_http=True), "http://127.0.0.1:9000/a", None),
    ],
)
def test_which_links_are_opened(rules, url, problem):
    """Without a list: public addresses on the usual ports; with one: what it names, by whole labels, and no more."""
    found = rules.problem(URL(url, encoded=True))
    assert found is None if problem is None else problem in found


@given(st.text(max_size=60), st.sampled_from(["https://h.example", "https://", "http://user:", "https://h:"]))
def test_a_problem_tells_no_more_than_the_host(text, prefix):
    """Whatever the link is, the verdict comes as words, and path and query are not among them."""
    try:
        url = URL(f"{prefix}{text}/s3cret-path?s3cret-query", encoded=True)
    except ValueError:
        return
    assert "s3cret" not in (STRICT.problem(url) or "")


@pytest.mark.parametrize(
    ("hosts", "host", "address", "reached"),
    [
        ((), "files.example", "8.8.8.8", True),
        ((), "files.example", "127.0.0.1", False),
        ((), "files.example", "::ffff:10.0.0.1", False),
        ((), "files.example", "fe80::1%eth0", False),
        ((), "files.example", "garbage", False),
        (("files.example",), "files.example", "10.0.0.1", True),
    ],
)
def test_names_are_judged_by_what_they_resolve_to(hosts, host, address, reached):
    """A name that resolves to a local address is reached only where the configuration names it."""
    assert LinkRules(hosts=hosts, allow_local=False, allow_http=False).reaches(host, address) is reached


class Answering(AbstractResolver):
    """Resolves every name to the same addresses."""

    def __init__(self, *addresses):
        self._addresses = addresses

    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [{"hostname": host, "host": address, "port": port} for address in self._addresses]

    async def close(self):
        pass


@pytest.mark.anyio
async def test_one_local_address_among_others_is_enough():
    """A name is refused when any of its addresses is local: which one would be connected to is not ours to say."""
    resolver = CheckedResolver(STRICT)
    resolver._inner = Answering("8.8.8.8", "127.0.0.1")
    with pytest.raises(BlockedAddressError):
        await resolver.resolve("files.example")
    resolver._inner = Answering("8.8.8.8", "2606:4700::1111")
    assert len(await resolver.resolve("files.example")) == 2
