"""Downloads from a server that misbehaves: what is sent, which links are opened, and which bytes are believed."""

import base64
import gzip
import hashlib
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, repeat

import aiohttp
import anyio
import pytest
import trustme
from support.edges import LOCAL, PDF, SIGNATURE, assert_keeps_secrets, downloading, everything_said, link_to, new_gate
from support.fault_server import CLOSE, RESET, chunked, fault_server, head, reply
from support.pdfs import pdf_bytes, updated
from support.puts import opened, read_body

from bulkfetch.errors import (
    BadBody,
    BulkfetchError,
    LinkAged,
    LinkRefused,
    NotReady,
    OriginError,
    PermanentError,
    Reason,
    Refused,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.net.link_rules import LinkRules

pytestmark = pytest.mark.anyio

STRICT = LinkRules(hosts=(), allow_local=False, allow_http=True)


class AnyPort(LinkRules):
    """Takes every port for a usual one: the rule about ports would hide the rules about addresses."""

    def problem(self, url):
        return super().problem(url.with_port(80))


CHUNKED = {"Transfer-Encoding": "chunked"}
UNFRAMED = [head(200, {}) + PDF, CLOSE]
SINGLE_BYTES = [chunked(bytes([byte]), last=False) for byte in PDF]


async def read(downloader, link, **options):
    """All bytes of `link`, or the error that came instead; no error may hold a secret."""
    try:
        async with opened(downloader, link, **options) as body:
            data = await read_body(body)
            assert body.sha256 == hashlib.sha256(data).hexdigest()
            return data
    except BulkfetchError as error:
        assert_keeps_secrets(error)
        return error


async def outcome(*answers, age=0.0, last_bad_sha256=None, **limits):
    """What one download comes to when the host answers so."""
    async with fault_server() as files, downloading(**limits) as downloader:
        files.on("/", *answers)
        link = link_to(f"{files.url}/a.pdf?{SIGNATURE}", age=age)
        return await read(downloader, link, last_bad_sha256=last_bad_sha256)


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb.pdf?x=1%2B2",
        "/a+b.pdf?x=1+2",
        "/a%20b.pdf",
        "//double//slash/",
        "/gr%c3%b6%c3%9fe.pdf?n=%c3%bc",
        "/%7Euser/~user",
        "/a/../b/./c",
        "/a?b=c&b=d&=&&x",
        "/a;v=1,2:3@4!$'()*",
        "/%41%5B%5D?k=[]|{}",
        "/a?X-Amz-Credential=AK%2F20260301%2Feu&X-Amz-Signature=c4n4ry",
        "/a?",
        "/a?b?",
        "/" + "a" * 60_000,
    ],
)
async def test_the_target_goes_out_byte_for_byte(target):
    """A signature covers the exact spelling: nothing of the path and query is decoded, encoded or normalised."""
    async with fault_server() as files, downloading() as downloader:
        files.on("", reply(200, PDF))
        assert await read(downloader, link_to(files.url + target)) == PDF
        assert files.targets == [target]


async def test_the_request_carries_nothing_of_ours(monkeypatch):
    """No token, no cookie that was set before, no proxy: only what a stranger would send."""
    async with fault_server() as files, fault_server() as proxy, downloading() as downloader:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        files.on("/first", reply(302, headers={"Location": "/a.pdf", "Set-Cookie": "a=b; Path=/"}))
        files.on("/", reply(200, PDF, {"Set-Cookie": "session=1; Path=/"}))
        for path in ("/a.pdf", "/b.pdf", "/first"):
            assert await read(downloader, link_to(files.url + path)) == PDF
        assert proxy.connections == 0
        for request in files.requests:
            assert request.method == "GET"
            assert request.headers.keys() == {"host", "accept", "accept-encoding", "user-agent"}
            assert request.headers["accept-encoding"] == "identity"


async def test_what_no_request_line_can_carry_is_encoded():
    """Blanks and letters beyond ASCII, in links and in Location, as UTF-8 or as the bytes that came."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/", reply(200, PDF))
        files.on("/from", [b"HTTP/1.1 302 Found\r\nLocation: /to/s\xf8 \xc3\xb8?\r\nContent-Length: 0\r\n\r\n"])
        assert await read(downloader, link_to(f" {files.url}/Rechnung Ü.pdf?n=Müller\udcfc&s=%2b|\n")) == PDF
        assert await read(downloader, link_to(f"{files.url}/from")) == PDF
        assert files.targets == ["/Rechnung%20%C3%9C.pdf?n=M%C3%BCller%FC&s=%2b|", "/from", "/to/s%F8%20%C3%B8?"]
        error = await read(downloader, link_to(f"{files.url}/a\r\nX: y"))
        assert (type(error), len(files.requests)) == (PermanentError, 3)


async def test_a_redirect_to_a_long_link():
    """A Location of 60 KB is followed."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/a", reply(302, headers={"Location": "/b?s=" + "x" * 60_000}))
        files.on("/b", reply(200, PDF))
        assert await read(downloader, link_to(f"{files.url}/a")) == PDF


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_to_another_port_and_relative_ones(status):
    """Each kind of redirect leads to its target, resolved against where it came from and spelt as it is."""
    async with fault_server() as files, fault_server() as other, downloading() as downloader:
        files.on("/a/b", reply(status, headers={"Location": "c%2fd%7e?x=%2B"}))
        files.on("/a/c", reply(status, headers={"Location": f"{other.url}/e+f//g"}))
        other.on("/", reply(200, PDF))
        assert await read(downloader, link_to(f"{files.url}/a/b")) == PDF
        assert (files.targets, other.targets) == (["/a/b", "/a/c%2fd%7e?x=%2B"], ["/e+f//g"])


@pytest.mark.parametrize(("hops", "followed"), [(3, True), (4, False)])
async def test_three_redirects_are_enough(hops, followed):
    """Three hops are followed, not a fourth."""
    async with fault_server() as files, downloading() as downloader:
        for hop in range(hops):
            files.on(f"/{hop}", reply(302, headers={"Location": f"/{hop + 1}?{SIGNATURE}"}))
        files.on(f"/{hops}", reply(200, PDF))
        result = await read(downloader, link_to(f"{files.url}/0"))
        assert result == PDF if followed else "redirects more than 3 times" in str(result)
        assert len(files.requests) == 4


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/loop", "more than 3 times"),
        ("file:///etc/passwd", "not an http(s) URL"),
        ("ftp://127.0.0.1/x", "not an http(s) URL"),
        ("https://user:eyJCANARY@127.0.0.1/x", "user information"),
        ("http://[::1", "not a valid URL"),
        ("http://h:99999/", "not a"),
        ("http://\xff\xfe/", "not a"),
    ],
)
async def test_redirects_that_lead_nowhere(location, said):
    """Loops, other schemes, user information and nonsense end the download for good."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/", reply(302, headers={"Location": location}))
        error = await read(downloader, link_to(f"{files.url}/loop"))
        assert type(error) is PermanentError
        assert said in str(error)


async def test_a_redirect_without_a_target():
    """A redirect status without Location is an answer outside the contract."""
    for status in (302, 304):
        assert type(await outcome(head(status, {"Content-Length": "0"}))) is UnexpectedAnswer


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1:{port}/a",
        "http://localhost:{port}/a",
        "http://LOCALHOST.:{port}/a",
        "http://127.1:{port}/a",
        "http://2130706433:{port}/a",
        "http://0x7f000001:{port}/a",
        "http://0177.0.0.1:{port}/a",
        "http://\uff11\uff12\uff17.0.0.1:{port}/a",
        "http://127.0.0.1.:{port}/a",
        "http://0.0.0.0:{port}/a",
        "http://0:{port}/a",
        "http://[::1]:{port}/a",
        "http://[::ffff:127.0.0.1]:{port}/a",
        "http://{hostname}:{port}/a",
    ],
)
@pytest.mark.parametrize("rules", [STRICT, AnyPort((), allow_local=False, allow_http=True)])
async def test_a_link_to_this_machine_makes_no_connection(rules, link):
    """Where the API is elsewhere, no spelling of a local address and no name that resolves to one is connected to."""
    async with fault_server() as inner, downloading(rules=rules) as downloader:
        inner.on("/", reply(200, PDF))
        error = await read(downloader, link_to(link.format(port=inner.port, hostname=socket.gethostname())))
        assert isinstance(error, PermanentError | OriginError), everything_said(error)
        assert inner.connections == 0


async def test_a_name_that_resolves_to_this_machine_is_given_up():
    """A refused address is no passing trouble: the invoice is given up with the cause."""
    async with downloading(rules=STRICT) as downloader:
        error = await read(downloader, link_to("http://localhost/a"))
        assert type(error) is PermanentError
        assert "resolves to a local address" in str(error)


async def test_a_redirect_to_this_machine_makes_no_connection():
    """Each hop is judged like the link: a listed host cannot send us to an address that is not listed."""
    async with fault_server() as files, fault_server() as inner:
        rules = LinkRules(hosts=[f"127.0.0.1:{files.port}"], allow_local=False, allow_http=True)
        async with downloading(rules=rules) as downloader:
            files.on("/", reply(302, headers={"Location": f"{inner.url}/latest/meta-data"}))
            error = await read(downloader, link_to(f"{files.url}/a"))
            assert "not in api.link_hosts" in str(error)
            assert (files.connections, inner.connections) == (1, 0)


@pytest.mark.parametrize(
    ("hosts", "opened"), [(["localhost"], True), ([".localhost"], True), (["host"], False), ([".host"], False)]
)
async def test_listed_hosts(hosts, opened):
    """With a list, what it names is opened even on this machine; a suffix counts by whole labels."""
    async with fault_server(host="localhost") as files:
        rules = LinkRules(hosts=hosts, allow_local=False, allow_http=True)
        async with downloading(rules=rules) as downloader:
            files.on("/", reply(200, PDF))
            result = await read(downloader, link_to(f"{files.url}/a"))
            assert (result == PDF) is opened
            assert files.connections == opened


async def test_plain_http_needs_an_api_without_tls():
    """A link or hop without TLS is refused when the API uses it, before any connection."""
    rules = LinkRules(hosts=(), allow_local=True, allow_http=False)
    async with fault_server() as files, downloading(rules=rules) as downloader:
        error = await read(downloader, link_to(f"{files.url}/a?{SIGNATURE}"))
        assert "plain HTTP" in str(error)
        assert files.connections == 0


@pytest.mark.parametrize("flaw", [None, "unknown authority", "wrong host", "expired"])
async def test_certificates_of_the_download_host(monkeypatch, flaw):
    """A right certificate serves; a wrong one gives the invoice up, and no request with the link is sent."""
    authority = trustme.CA()
    trusted, served = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(trusted)
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusted)
    issuer = trustme.CA() if flaw == "unknown authority" else authority
    host = "other.example" if flaw == "wrong host" else "127.0.0.1"
    issuer.issue_cert(host, not_after=datetime(2020, 1, 1, tzinfo=UTC) if flaw == "expired" else None).configure_cert(
        served
    )
    async with fault_server(served) as files, downloading() as downloader:
        files.on("/", reply(200, PDF))
        result = await read(downloader, link_to(f"{files.url}/a?{SIGNATURE}"))
        if flaw is None:
            assert result == PDF
        else:
            assert type(result) is PermanentError
            assert "TLS certificate" in str(result)
            assert files.requests == []


async def test_https_to_http_is_refused(monkeypatch):
    """A redirect that leaves TLS is not followed."""
    authority = trustme.CA()
    trusted, served = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(trusted)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusted)
    rules = LinkRules(hosts=(), allow_local=True, allow_http=False)
    async with fault_server(served) as files, fault_server() as plain, downloading(rules=rules) as downloader:
        files.on("/", reply(302, headers={"Location": f"{plain.url}/a"}))
        assert "plain HTTP" in str(await read(downloader, link_to(f"{files.url}/a")))
        assert plain.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(200, PDF, {"Content-Type": "application/pdf"}), id="plain"),
        pytest.param(reply(200, PDF, {"Content-Type": "text/html"}), id="wrong type"),
        pytest.param(reply(200, PDF), id="no type"),
        *(
            pytest.param(reply(200, PDF, {"Content-Encoding": label}), id=f"labelled {label}")
            for label in ("identity", "identity, Identity", "aws-chunked", "none", "binary", "UTF-8", "base64", "")
        ),
        pytest.param(head(200, CHUNKED) + chunked(PDF[:100], PDF[100:]), id="chunked"),
        pytest.param([head(200, CHUNKED), *SINGLE_BYTES, b"0\r\n\r\n"], id="byte by byte"),
        pytest.param(reply(200, PDF, {"Content-Disposition": 'attachment; filename="../../x\x01"'}), id="file name"),
    ],
)
async def test_right_bytes_are_accepted(answer):
    """A whole PDF is a PDF, however it is labelled and cut."""
    assert await outcome(answer) == PDF


async def test_what_is_told_of_the_body():
    """The content type is passed on, shown safely."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/", reply(200, PDF, {"Content-Type": "application/pdf; x=\x9b" + "y" * 200}))
        async with opened(downloader, link_to(f"{files.url}/a")) as body:
            assert body.content_type.startswith("application/pdf; x=")
            assert len(body.content_type) <= 100


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        ([head(200, {"Content-Length": str(len(PDF) + 1)}) + PDF, CLOSE], TransientError, Reason.TRUNCATED),
        ([head(200, {"Content-Length": str(len(PDF) + 1)}) + PDF, 0.02, RESET], TransientError, None),
        ([head(200, CHUNKED) + chunked(PDF, last=False), CLOSE], TransientError, Reason.TRUNCATED),
        ([head(200, CHUNKED) + chunked(PDF, last=False) + b"0\r\n", CLOSE], TransientError, Reason.TRUNCATED),
        ([head(200, CHUNKED) + b"ffff\r\n" + PDF, CLOSE], TransientError, Reason.TRUNCATED),
        (reply(200, gzip.compress(PDF, mtime=0), {"Content-Encoding": "gzip"}), TransientError, Reason.BAD_RESPONSE),
        *(
            (reply(200, PDF, {"Content-Encoding": coding}), TransientError, Reason.BAD_RESPONSE)
            for coding in ("br", "x-gzip", "deflate", "ZSTD", "compress", "aws-chunked,gzip", "none, br")
        ),
        (reply(200, b""), NotReady, Reason.NOT_READY),
        (reply(200, b"<html>Wartung</html>", {"Content-Type": "text/html"}), NotReady, Reason.NOT_READY),
        (reply(200, b'{"status": "pending"}', {"Retry-After": "3"}), NotReady, Reason.NOT_READY),
        (
            reply(200, b"<?xml version='1.0'?><ubl:Invoice/>", {"Content-Type": "application/xml"}),
            BadBody,
            Reason.NOT_PDF,
        ),
        (reply(200, b"x" + PDF[5:]), BadBody, Reason.NOT_PDF),
        (reply(200, PDF[:-7]), BadBody, Reason.NOT_PDF),
        ([reply(200, PDF) + b"surplus", CLOSE], UnexpectedAnswer, Reason.BAD_RESPONSE),
        ([RESET], OriginError, Reason.CONNECTION),
        ([CLOSE], OriginError, Reason.CONNECTION),
        ([b"HTTP/1.1 2000 OK\r\n\r\n", CLOSE], UnexpectedAnswer, Reason.BAD_RESPONSE),
        ([head(200, {"X": "y" * 70_000}), CLOSE], UnexpectedAnswer, Reason.BAD_RESPONSE),
    ],
)
async def test_wrong_bytes_are_refused(answer, kind, reason):
    """Cut, encoded, empty or other than a PDF: an error comes in place of the body's end."""
    error = await outcome(answer)
    assert isinstance(error, kind), everything_said(error)
    assert error.reason is reason or reason is None
    assert not error.hold


async def test_a_body_that_only_the_connections_end_ends():
    """Without a length two downloads must be alike; where they differ, one of them was cut, if only by a reset."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/same", UNFRAMED)
        files.on("/cut", UNFRAMED, [head(200, {}) + PDF[:-1], CLOSE])
        files.on("/cut-first", [head(200, {}) + PDF[:900], CLOSE], UNFRAMED)
        files.on("/reset", UNFRAMED, [head(200, {}) + PDF[:900], 0.02, RESET])
        files.on("/short", [head(200, {}) + PDF[:900], CLOSE])
        assert await read(downloader, link_to(f"{files.url}/same")) == PDF
        assert files.targets == ["/same", "/same"]
        for path in ("/cut", "/cut-first", "/reset"):
            assert (await read(downloader, link_to(files.url + path))).reason is Reason.TRUNCATED, path
        assert (await read(downloader, link_to(f"{files.url}/short"))).reason is Reason.NOT_PDF


def unframed(body):
    return [head(200, {}) + body, CLOSE]


async def test_a_document_that_is_rendered_anew_each_time():
    """Without a length two whole renderings confirm each other, whatever date is in them; one revision less is a
    cut."""
    first, second = pdf_bytes(3216, "printed at 8:01"), pdf_bytes(3300, "printed at 08:02")
    async with fault_server() as files, downloading() as downloader:
        files.on("/", unframed(first), unframed(second))
        assert await read(downloader, link_to(f"{files.url}/a")) == second
        files.on("/", unframed(updated(first)), unframed(second))
        assert (await read(downloader, link_to(f"{files.url}/a"))).reason is Reason.TRUNCATED


@pytest.mark.parametrize("used_up", [reply(403), reply(200, b"<html>This link was used.</html>"), unframed(b"used up")])
async def test_a_link_that_works_once_and_a_body_without_a_length(used_up):
    """What the first link brought is remembered for the second link, which confirms it."""
    async with fault_server() as files, downloading() as downloader:
        for name in ("1", "2"):
            files.on(f"/{name}", unframed(pdf_bytes(3216, name)), used_up)
        link = replace(link_to(f"{files.url}/1"), invoice_id="A")
        assert isinstance(await read(downloader, link), TransientError)
        assert await read(downloader, replace(link, url=f"{files.url}/2")) == pdf_bytes(3216, "2")
        assert files.targets == ["/1", "/1", "/2"]


async def test_the_same_wrong_bytes_twice_are_kept_aside():
    """A body that comes again as it was is kept for a person to look at; only time tells if it is the last word."""
    wrong = b"Rechnung"
    refused = Refused(hashlib.sha256(wrong).hexdigest(), len(wrong))
    held = await outcome(reply(200, wrong, {"Content-Type": "text/plain"}), last_bad_sha256=refused.sha256)
    assert (type(held), held.reason, held.hold, held.refused) == (BadBody, Reason.NOT_PDF, True, refused)
    assert "content type text/plain" in str(held)
    other = await outcome(reply(200, wrong + b" "), last_bad_sha256=refused.sha256)
    assert (type(other), other.hold) == (BadBody, False)
    assert await outcome(reply(200, PDF), last_bad_sha256=refused.sha256) == PDF


async def test_what_a_server_says_instead_of_a_document():
    """The error says what came, when to come back, and which bytes these were; of an empty body there are none."""
    page = b"<!DOCTYPE html><p>Bitte warten</p>"
    error = await outcome(reply(200, page, {"Content-Type": "text/html", "Retry-After": "3"}))
    assert (type(error), error.retry_after, error.http_status, error.charged) == (NotReady, 3.0, 200, False)
    assert str(error).startswith("HTML came in place of the document")
    assert error.refused == Refused(hashlib.sha256(page).hexdigest(), len(page))
    assert (await outcome(reply(200))).refused is None


async def test_a_part_that_is_the_whole():
    """206 is taken where the answer itself says that it holds every byte."""
    size = len(PDF)
    assert await outcome(reply(206, PDF, {"Content-Range": f"bytes 0-{size - 1}/{size}"})) == PDF
    for wrong in (f"bytes 0-{size - 1}/{size + 1}", f"bytes 1-{size}/{size + 1}", f"bytes 0-{size - 1}/*"):
        assert type(await outcome(reply(206, PDF, {"Content-Range": wrong}))) is UnexpectedAnswer, wrong


async def test_a_cookie_on_the_way_is_told():
    """No cookie is sent back; where a redirect set one and the next hop refuses, the message says so."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/a", reply(302, headers={"Location": "/b", "Set-Cookie": "a=c4n4ry"}))
        files.on("/b", reply(403))
        error = await read(downloader, link_to(f"{files.url}/a"))
        assert type(error) is LinkRefused
        assert "set a cookie" in str(error)
        assert "set a cookie" not in str(await read(downloader, link_to(f"{files.url}/b")))


def b64(algorithm, data=PDF):
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


S3 = {"x-amz-request-id": "1", "x-amz-server-side-encryption": "AES256"}
COMPOSITE = {"x-amz-checksum-type": "COMPOSITE"}
MD5_HEX = hashlib.md5(PDF).hexdigest()
OTHER_HEX = hashlib.md5(b"other").hexdigest()


@pytest.mark.parametrize(
    ("headers", "believed"),
    [
        ({"Repr-Digest": f"sha-256=:{b64('sha256')}:"}, True),
        ({"Repr-Digest": f"sha-256=:{b64('sha256', b'')}:"}, False),
        ({"Repr-Digest": f"sha-512=:{b64('sha512', b'')}:, sha-256=:{b64('sha256')}:"}, True),
        ({"Repr-Digest": f"sha-512=:{b64('sha512')}:, sha-256=:{b64('sha256', b'')}:"}, False),
        ({"Repr-Digest": "sha-512=:AAAA:"}, None),
        ({"Repr-Digest": "nonsense"}, None),
        ({"Content-Digest": f"sha-256=:{b64('sha256')}:"}, True),
        ({"Content-Digest": f"sha-256=:{b64('sha256', b'')}:"}, False),
        ({"x-amz-checksum-sha256": b64("sha256")}, True),
        ({"x-amz-checksum-sha256": b64("sha256", b"")}, False),
        ({"x-amz-checksum-sha256": b64("sha256", b"") + "-3"}, None),
        ({"x-amz-checksum-sha256": b64("sha256", b""), **COMPOSITE}, None),
        ({"x-amz-checksum-sha256": b64("sha256", b""), "Content-MD5": b64("md5"), **COMPOSITE}, True),
        ({"x-amz-checksum-sha256": b64("sha256"), "x-amz-checksum-type": "FULL_OBJECT"}, True),
        ({"x-amz-checksum-sha256": b64("sha256", b""), "x-amz-checksum-type": "FULL_OBJECT"}, False),
        ({"Digest": f"SHA-256={b64('sha256')}"}, True),
        ({"Digest": f"SHA-256={b64('sha256', b'')}"}, False),
        ({"Digest": f"UNIXsum=30637, md5={b64('md5')}"}, True),
        ({"Digest": f"MD5={b64('md5', b'')},UNIXsum=30637"}, False),
        ({"Digest": f"SHA={b64('sha1', b'')}"}, None),
        ({"Content-MD5": b64("md5")}, True),
        ({"Content-MD5": b64("md5", b"")}, False),
        ({"Content-MD5": MD5_HEX}, None),
        ({**S3, "ETag": f'"{MD5_HEX}"'}, None),
        ({**S3, "ETag": f'"{OTHER_HEX}"'}, None),
        ({**S3, "ETag": f'"{OTHER_HEX}-2"'}, None),
        ({"ETag": f'"{OTHER_HEX}"'}, None),
        ({"ETag": f'"{OTHER_HEX}"', "Content-MD5": b64("md5")}, True),
    ],
)
async def test_the_servers_checksums(headers, believed):
    """A checksum that can be compared is, one that cannot is as good as none: None in the table.

    So only a comparable one spares a body without a length its second download.
    """
    result = await outcome(reply(200, PDF, headers))
    if believed is False:
        assert (type(result), result.reason) == (TransientError, Reason.DIGEST_MISMATCH)
        assert result.refused == Refused(hashlib.sha256(PDF).hexdigest(), len(PDF))
    else:
        assert result == PDF
    async with fault_server() as files, downloading() as downloader:
        files.on("/", [head(200, headers) + PDF, CLOSE])
        await read(downloader, link_to(f"{files.url}/a"))
        assert len(files.requests) == (2 if believed is None else 1)


async def test_a_length_over_the_limit_is_refused_unread():
    """An announced size above max_size ends the download before its body."""
    async with fault_server() as files, downloading(max_size=1000) as downloader:
        files.on("/", [head(200, {"Content-Length": "1001"}), 30.0])
        with anyio.fail_after(20):
            error = await read(downloader, link_to(f"{files.url}/a"))
        assert (type(error), error.reason) == (PermanentError, Reason.TOO_LARGE)
        files.on("/", reply(200, pdf_bytes(1000)))
        assert len(await read(downloader, link_to(f"{files.url}/a"))) == 1000


@pytest.mark.parametrize("headers", [CHUNKED, {}], ids=["chunked", "unframed"])
async def test_an_endless_body_is_cut_off(headers):
    """A body without end is left when it passes max_size, also where it is read only to be compared."""
    block = chunked(b"x" * 4096, last=False)
    error = await outcome(chain([head(200, headers)], repeat(block)), max_size=50_000)
    assert (type(error), error.reason) == (PermanentError, Reason.TOO_LARGE)


def drip(headers, pause=0.03):
    return chain([head(200, headers)], *repeat((chunked(b"%", last=False), pause), 2000))


@pytest.mark.parametrize(
    ("answer", "limits"),
    [
        pytest.param([30.0], {"connect": 0.1, "first_byte": 0.2}, id="no answer"),
        pytest.param(drip({}, 0.1), {"connect": 0.1, "first_byte": 0.1, "idle": 0.05}, id="idle between bytes"),
        pytest.param([head(200, {"Content-Length": "9999"}) + PDF, 30.0], {"idle": 0.2}, id="idle"),
        pytest.param([head(200, {}) + PDF, 30.0], {"idle": 0.2}, id="idle without a length"),
        pytest.param(drip(CHUNKED), {"idle": 0.2, "min_speed": 1000.0}, id="drip"),
        pytest.param(drip({}), {"idle": 0.2, "min_speed": 1000.0}, id="drip without a length"),
        pytest.param(drip(CHUNKED), {"total": 0.3}, id="total"),
    ],
)
async def test_what_holds_a_worker_up_is_ended(answer, limits):
    """Silence, a stall, a drip and an overlong download end as the origin's time-out."""
    with anyio.fail_after(20):
        error = await outcome(answer, **limits)
    assert (type(error), error.reason) == (OriginError, Reason.TIMEOUT), everything_said(error)


async def test_a_slow_reader_is_not_the_hosts_fault():
    """Only time spent waiting for the host counts against its speed, not what the disk takes."""
    async with fault_server() as files, downloading(idle=0.3, min_speed=100_000.0) as downloader:
        files.on("/", [head(200, CHUNKED) + chunked(PDF[:100], last=False), 0.01, chunked(PDF[100:])])
        async with opened(downloader, link_to(f"{files.url}/a")) as body:
            chunks = []
            while await body.gather(chunks, 0):  # noqa: ASYNC110 - it is the reader who is slow
                await anyio.sleep(0.35)
        assert b"".join(chunks) == PDF


async def test_the_first_byte_has_a_time_of_its_own():
    """A host that thinks longer than `idle` before it answers is waited for."""
    assert await outcome([0.4, reply(200, PDF)], idle=0.2, first_byte=20.0) == PDF


@pytest.mark.parametrize(
    ("statuses", "kind", "reason"),
    [
        ([400, 401, 403, 404, 405, 410, 412, 416, 422, 431, 499], LinkRefused, Reason.LINK_REFUSED),
        ([408], OriginError, Reason.TIMEOUT),
        ([202, 409, 423, 425], NotReady, Reason.NOT_READY),
        ([402, 451, 501, 505], PermanentError, Reason.BAD_RESPONSE),
        ([429], Throttled, Reason.RATE_LIMITED),
        ([500, 502, 503, 504, 520, 599], OriginError, Reason.SERVER_ERROR),
        ([205, 206, 226, 300, 304], UnexpectedAnswer, Reason.BAD_RESPONSE),
    ],
)
async def test_every_status_has_its_disposition(statuses, kind, reason):
    """The status decides, even if a whole PDF comes with it."""
    for status in statuses:
        error = await outcome(reply(status, b"" if status == 304 else PDF))
        assert type(error) is kind, status
        assert (error.reason, error.http_status) == (reason, status)


@pytest.mark.parametrize("status", [201, 203])
async def test_a_document_with_another_good_status(status):
    """Whether it was created just now or came through a proxy says nothing against whole bytes."""
    assert await outcome(reply(status, PDF)) == PDF


async def test_a_link_refused_after_its_life_has_expired():
    """The reason tells whether the link's own time was over; either way a new one is asked for."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/", [0.6, reply(403)])
        # Young enough to be sent, too old when the answer comes.
        expired = await read(downloader, link_to(f"{files.url}/a", valid_seconds=0.5))
        assert (type(expired), expired.reason) == (LinkRefused, Reason.LINK_EXPIRED)
        alive = await read(downloader, link_to(f"{files.url}/a", valid_seconds=60))
        assert (type(alive), alive.reason) == (LinkRefused, Reason.LINK_REFUSED)


async def test_a_link_that_aged_in_the_queue_is_not_sent():
    """Past 80 % of its life a link is replaced before it is used, at nobody's charge."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/", reply(200, PDF))
        error = await read(downloader, link_to(f"{files.url}/a", age=81.0, valid_seconds=100))
        assert (type(error), error.reason, error.charged) == (LinkAged, Reason.LINK_EXPIRED, False)
        assert files.connections == 0
        assert await read(downloader, link_to(f"{files.url}/a", age=79.0, valid_seconds=100)) == PDF


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_closes_the_gate_for_everybody(status):
    """After one 429, or 503 with Retry-After, no download starts before the pause is over."""
    events = []
    gate = new_gate("download host", notify=events.append)
    async with fault_server() as files, downloading(gate=gate) as downloader:
        files.on("/", reply(status, headers={"Retry-After": "1"}))
        error = await read(downloader, link_to(f"{files.url}/a"))
        assert (type(error), error.retry_after) == (Throttled, 1.0)
        with anyio.move_on_after(0.2):
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(read, downloader, link_to(f"{files.url}/{number}"))
        assert len(files.requests) == 1
        assert f"HTTP {status}" in events[0].reason


async def test_a_stale_connection_is_nobodys_failure():
    """A kept connection that the host has closed meanwhile is replaced without an error."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/", reply(200, PDF), [CLOSE], reply(200, PDF))
        assert await read(downloader, link_to(f"{files.url}/a")) == PDF
        assert await read(downloader, link_to(f"{files.url}/b")) == PDF
        assert files.connections == 2


async def test_a_body_left_unread_frees_its_connection():
    """Whoever leaves a body early leaves nothing behind: the next download works on a connection of its own."""
    async with fault_server() as files, downloading() as downloader:
        files.on("/long", [head(200, CHUNKED) + chunked(PDF, last=False), 30.0])
        files.on("/", reply(200, PDF))
        async with opened(downloader, link_to(f"{files.url}/long")):
            pass
        assert await read(downloader, link_to(f"{files.url}/a")) == PDF
        assert files.connections == 2


async def test_the_host_is_free_once_the_last_byte_is_here():
    """A place at the host's gate is held while the body comes, and given up at its end, not when it is put away."""
    async with fault_server() as files, downloading(gate=new_gate("download host", ceiling=1)) as downloader:
        files.on("/", reply(200, PDF))
        async with opened(downloader, link_to(f"{files.url}/a")) as body:
            with anyio.move_on_after(0.1):
                await read(downloader, link_to(f"{files.url}/b"))
            assert files.targets == ["/a"]
            assert await read_body(body) == PDF
            with anyio.fail_after(10):
                assert await read(downloader, link_to(f"{files.url}/c")) == PDF


async def test_rules_of_the_tests_themselves():
    """The control of the refusals above: with local addresses allowed the same links are opened."""
    async with fault_server() as files, downloading(rules=LOCAL) as downloader:
        files.on("/", reply(200, PDF))
        assert await read(downloader, link_to(f"http://localhost:{files.port}/a")) == PDF
        assert await read(downloader, link_to(f"http://127.0.0.1:{files.port}/a")) == PDF
