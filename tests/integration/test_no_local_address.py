"""Local addresses, however a link spells them: the system is never asked to connect there."""

import sys

import pytest
from support.edges import downloading, link_to
from support.fault_server import fault_server, reply
from support.resolver import resolve_only

from bulkfetch.errors import PermanentError
from bulkfetch.net.link_rules import LinkRules

pytestmark = pytest.mark.anyio

SPELLINGS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "017700000001", "0177.0.0.1",
    "127.0.0.1.", "127.0.0.1..", "%31%32%37.0.0.1", "127%2e0.0.1", "0", "0.0.0.0", "10.1.2.3", "169.254.169.254",
    "2852039166", "0xa9fea9fe", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255",
    "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1", "127\u30020\u30020\u30021", "127\uff0e0\uff0e0\uff0e1",
    "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::127.0.0.1]", "[64:ff9b:1::8.8.8.8]",
    "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[fe80::1]", "[fe80::1%25lo]",
    "[::1%25lo]", "[fec0::1]", "[fd00:ec2::254]", "[fc00::1]", "[ff02::1]", "[100::1]", "[2606:4700::5efe:127.0.0.1]",
    "localhost", "LOCALHOST.", "home.example", "mapped.example", "site.example", "mixed.example",
]  # fmt: skip
NAMES = {
    "localhost": ["127.0.0.1", "::1"],
    "localhost.": ["127.0.0.1"],
    "LOCALHOST.": ["127.0.0.1"],
    "home.example": ["127.0.0.1"],
    "mapped.example": ["::ffff:0:10.0.0.1"],
    "site.example": ["fec0::1"],
    "mixed.example": ["8.8.8.8", "10.0.0.1"],
}
STRICT = LinkRules(hosts=(), allow_local=False, allow_http=True)

connected: list[object] = []
watching = False


def watch(event, args) -> None:
    if watching and event in ("socket.connect", "socket.sendto"):
        connected.append(args[1])
        raise AssertionError(f"a connection to {args[1]}")


sys.addaudithook(watch)


@pytest.fixture
def watched(monkeypatch):
    """What the process asks the system to connect to, none of which happens."""
    resolve_only(monkeypatch, NAMES)
    connected.clear()
    monkeypatch.setattr(sys.modules[__name__], "watching", True)
    return connected


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_connection_is_made(watched, host):
    """A link to a local address fails its invoice, before the system hears of the address."""
    async with downloading(rules=STRICT) as downloader:
        with pytest.raises(PermanentError, match=r"local address|usual form|not a host name|valid URL"):
            await downloader.open(link_to(f"http://{host}/a"))
    assert watched == []


async def test_the_watch_sees_connections(watched):
    """The control of the test above: a connection to a public address is seen, and does not happen either."""
    async with downloading(rules=STRICT) as downloader:
        with pytest.raises(BaseException):  # noqa: B017 - what comes of it depends on who is in between
            await downloader.open(link_to("http://8.8.8.8/a"))
    assert watched == [("8.8.8.8", 80)]


@pytest.mark.parametrize("host", ["127.0.0.2", "[::ffff:127.0.0.1]", "0x7f.1", "home.example"])
async def test_no_redirect_leads_there(monkeypatch, host):
    """A hop is judged as the link is: of the first host one request is known, of the second no connection."""
    resolve_only(monkeypatch, NAMES)
    async with fault_server() as files:
        rules = LinkRules(hosts=(f"127.0.0.1:{files.port}",), allow_local=False, allow_http=True)
        files.on("/", reply(302, headers={"Location": f"http://{host}:{files.port}/b"}))
        async with downloading(rules=rules) as downloader:
            with pytest.raises(PermanentError):
                await downloader.open(link_to(f"{files.url}/a"))
        assert files.targets == ["/a"]
