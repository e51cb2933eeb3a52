"""The mint call against a server that misbehaves: what is sent, and what every answer comes to."""

import asyncio
import gzip
import json
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import anyio
import pytest
import trustme
from support.edges import TOKEN, assert_keeps_secrets, everything_said, minting, new_gate
from support.fault_server import CLOSE, RESET, fault_server, head, reply

from bulkfetch.errors import (
    BulkfetchError,
    FatalError,
    InvoiceError,
    NoLink,
    NotReady,
    OriginError,
    PermanentError,
    Reason,
    Throttled,
    TransientError,
    UnexpectedAnswer,
)
from bulkfetch.events import OriginDown

pytestmark = pytest.mark.anyio

LINK = "https://files.example/a%2Fb?X-Canary-Signature=c4n4ry"
GRANTED = reply(200, json.dumps({"url": LINK}).encode(), {"Content-Type": "application/json"})


async def outcome(answer, **options):
    """What minting one link comes to when the API answers so."""
    async with fault_server() as api, minting(api.url, **options) as minter:
        api.on("/", answer)
        try:
            return await minter.mint("INV-1")
        except BulkfetchError as error:
            assert_keeps_secrets(error)
            return error


def problem(status, **members):
    return reply(status, json.dumps(members).encode(), {"Content-Type": "application/problem+json"})


@pytest.mark.parametrize(
    ("invoice_id", "segment"),
    [
        ("INV-1", "INV-1"),
        ("2026/17", "2026%2F17"),
        ("a b+c", "a%20b%2Bc"),
        ("Größe", "Gr%C3%B6%C3%9Fe"),
        ("%2F", "%252F"),
        ("../admin", "..%2Fadmin"),
        ("x?y=1#z", "x%3Fy%3D1%23z"),
        ("a&b;c:d@e", "a%26b%3Bc%3Ad%40e"),
        ("~._-", "~._-"),
    ],
)
async def test_the_request_is_exactly_so(invoice_id, segment):
    """PUT with the ID as one encoded path segment, the token, JSON accepted, and neither body nor content type."""
    async with fault_server() as api, minting(f"{api.url}/tenant/api/") as minter:
        api.on("/", GRANTED)
        link = await minter.mint(invoice_id)
        assert (link.url, link.valid_seconds) == (LINK, 600)
        assert LINK not in repr(link)
        (request,) = api.requests
        assert request.method == "PUT"
        assert request.target == f"/tenant/api/invoices/{segment}/download-link?secondsValid=600"
        assert request.body == b""
        headers = request.headers
        assert headers.pop("content-length", "0") == "0"
        assert headers.pop("user-agent").startswith("bulkfetch/")
        assert headers == {
            "host": f"127.0.0.1:{api.port}",
            "authorization": f"Bearer {TOKEN}",
            "accept": "application/json",
            "accept-encoding": "identity",
        }


@pytest.mark.parametrize(
    ("statuses", "kind", "reason"),
    [
        ([400, 405, 406, 411, 413, 414, 415], PermanentError, Reason.INVALID_REQUEST),
        ([403], PermanentError, Reason.FORBIDDEN),
        ([404, 410], PermanentError, Reason.NOT_FOUND),
        ([422], PermanentError, Reason.UNPROCESSABLE),
        ([202, 409, 423, 425], NotReady, Reason.NOT_READY),
        ([408], OriginError, Reason.TIMEOUT),
        ([429], Throttled, Reason.RATE_LIMITED),
        ([500, 502, 504, 507, 520, 527, 599], OriginError, Reason.SERVER_ERROR),
        ([503], Throttled, Reason.SERVER_ERROR),
        ([201, 205, 206, 226, 418, 421, 431, 499], UnexpectedAnswer, Reason.BAD_RESPONSE),
        ([401, 402, 451, 501, 505], FatalError, None),
        ([300, 301, 302, 303, 304, 307, 308], FatalError, None),
    ],
)
async def test_every_status_has_its_disposition(statuses, kind, reason):
    """The status alone decides what is done, whatever stands in the body, and the message names it."""
    for status in statuses:
        error = await outcome(reply(status, b"" if status == 304 else b"<h1>Fehler</h1>"))
        assert type(error) is kind, status
        assert str(status) in str(error)
        if reason is not None:
            assert (error.reason, error.http_status) == (reason, status)


async def test_no_content_and_early_hints():
    """204 is no link yet; a 103 before the answer is passed over."""
    assert type(await outcome(head(204, {}))) is NotReady
    assert (await outcome(head(103, {"Link": "</x>; rel=preload"}) + GRANTED)).url == LINK


def dated(seconds, date_format):
    """Retry-After as a date `seconds` after a Date that is a year off our clock."""
    date = datetime.now(UTC) - timedelta(days=365)
    until = date + timedelta(seconds=seconds)
    return {"Date": format_datetime(date, usegmt=True), "Retry-After": until.strftime(date_format)}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        (dated(90, "%a, %d %b %Y %H:%M:%S GMT"), 90.0),
        (dated(90, "%A, %d-%b-%y %H:%M:%S GMT"), 90.0),
        (dated(90, "%a %b %d %H:%M:%S %Y"), 90.0),
        (dated(-90, "%a, %d %b %Y %H:%M:%S GMT"), 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1.5"}, None),
        ({}, None),
    ],
)
async def test_the_pause_that_the_api_asks_for(headers, seconds):
    """429 and 503 pause for the time they name, if that is one."""
    throttled = await outcome(reply(429, headers=headers))
    assert (type(throttled), throttled.retry_after, throttled.charged) == (Throttled, seconds, False)
    unavailable = await outcome(reply(503, headers=headers))
    assert (type(unavailable), unavailable.retry_after) == (Throttled, seconds)


async def test_a_pause_of_more_than_an_hour_stops_the_run():
    """Retry-After above the cap is no pause but a quota: where nothing was answered, it stops the run and is told."""
    async with fault_server() as api, minting(api.url) as minter:
        api.on("/", reply(429, headers={"Retry-After": "86400"}))
        with pytest.raises(FatalError, match="86400 s"):
            await minter.mint("INV-1")
        assert len(api.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status):
    """The token goes nowhere else: the target of a redirect sees no connection, and the message names its host only."""
    async with fault_server() as api, fault_server() as elsewhere, minting(api.url) as minter:
        api.on("/", reply(status, headers={"Location": f"{elsewhere.url}/x?X-Canary-Signature=c4n4ry"}))
        with pytest.raises(FatalError, match=r"redirects to 127\.0\.0\.1") as caught:
            await minter.mint("INV-1")
        assert_keeps_secrets(caught.value)
        assert elsewhere.connections == 0


@pytest.mark.parametrize("location", ["http://[::1", "http://h:99999/", "", "/login", "\xff\xfe", "http://\x7f/"])
async def test_a_redirect_to_nonsense(location):
    """A Location that is no URL does not hide that it was a redirect, nor break anything."""
    error = await outcome(reply(302, headers={"Location": location}))
    assert isinstance(error, FatalError | UnexpectedAnswer)


async def test_the_envelope_is_understood():
    """A link wrapped in `data`, as other endpoints do it, is a link."""
    assert (await outcome(reply(200, json.dumps({"data": {"url": LINK}, "more": 1}).encode()))).url == LINK


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!doctype html><title>Anmelden</title>", {"Content-Type": "text/html"}),
        (b"null", {}),
        (b"42", {}),
        (b"[]", {}),
        (b'"https://files.example/x?X-Canary-Signature=c4n4ry"', {}),
        (b'{"url": 5}', {}),
        (b'{"url": ["https://files.example/x?X-Canary-Signature=c4n4ry"]}', {}),
        (b'{"data": []}', {}),
        (b'{"url": "https://files.example/x?X-Canary-Signature=c4n4ry"', {}),
        (b'{"data":' * 20_000 + b"1", {}),
        (b"[" * 60_000, {}),
        (b'{"url": "https://files.example/' + b"x" * 2**20 + b'"}', {}),
        (gzip.compress(b'{"url": "https://files.example/x"}', mtime=0), {"Content-Encoding": "gzip"}),
    ],
)
async def test_200_without_a_link(body, headers):
    """Whatever is no small plain JSON object with a url is outside the contract: asked once more, then given up."""
    error = await outcome(reply(200, body, headers))
    assert type(error) is UnexpectedAnswer
    assert (error.reason, error.http_status) == (Reason.BAD_RESPONSE, 200)
    assert len(str(error)) <= 500


@pytest.mark.parametrize("status", [200, 201, 202, 203])
@pytest.mark.parametrize(
    ("body", "url"),
    [
        (b'\xef\xbb\xbf{"url": "https://files.example/x"}', "https://files.example/x"),
        (b'\r\n {"url": "https:\\/\\/files.example\\/x?a=1\\u0026b=2"}\n', "https://files.example/x?a=1&b=2"),
        ('{"url": "https://files.example/ü"}'.encode(), "https://files.example/ü"),
        ('{"url": "https://files.example/ü"}'.encode("latin-1"), "https://files.example/\udcfc"),
        (b'{"url": "https://files.example/' + b"\\u0026x=1" * 7000 + b'"}', "https://files.example/" + "&x=1" * 7000),
    ],
)
async def test_a_link_in_any_spelling_of_json(status, body, url):
    """A BOM, escapes, bytes that are no UTF-8 and 60 KB of link are read, with any status that says yes and whatever
    the labels say."""
    labels = {"Content-Type": "text/html; charset=x", "Content-Encoding": "br"}
    assert (await outcome(reply(status, body, labels))).url == url


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (reply(200), NotReady, Reason.NOT_READY),
        (reply(201, b" \n", {"Retry-After": "3"}), NotReady, Reason.NOT_READY),
        (reply(200, b"{}"), NoLink, Reason.BAD_RESPONSE),
        (reply(200, b'{"url": null}', {"Retry-After": "3"}), NoLink, Reason.BAD_RESPONSE),
        (reply(200, b'{"url": ""}'), NoLink, Reason.BAD_RESPONSE),
        (reply(200, b'{"error": {"message": "not generated yet"}}'), NoLink, Reason.BAD_RESPONSE),
    ],
)
async def test_yes_without_a_link_is_waited_for(answer, kind, reason):
    """An empty answer, and an object without a link, may be of a document that is being made."""
    error = await outcome(answer)
    assert (type(error), error.reason) == (kind, reason)
    assert error.retry_after == (3.0 if b"Retry-After" in answer else None)


async def test_an_endless_answer_is_cut_off():
    """No more of an answer is read than a link needs."""
    endless = [head(200, {"Transfer-Encoding": "chunked"}), *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 2000, CLOSE]
    assert "128 KiB" in str(await outcome(endless))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"detail": "Entwurf"}, "Entwurf"),
        ({"title": "An error occurred", "detail": "Entwurf"}, "Entwurf"),
        ({"title": "Gesperrt"}, "Gesperrt"),
        ({"message": "Kaputt"}, "Kaputt"),
        ({"hydra:description": "Kaputt"}, "Kaputt"),
        ({"error": "invalid_grant"}, "invalid_grant"),
        ({"violations": [{"propertyPath": "id", "message": "leer"}]}, "id: leer"),
        ({"detail": "a\r\nb\x1b[31mc\u202ed"}, "a b\\u001b[31mc\\u202ed"),
        ({"detail": "see https://h.example/x?X-Canary-Signature=c4n4ry now"}, "see https://h.example now"),
        ({"detail": "at https://u:c4n4ry@h.example:8443/eyJCANARY/x#1."}, "at https://h.example:8443"),
        ({"detail": "of https://h.example&c4n4ry or h2://h.example;c4n4ry"}, "of https://h.example or h2://h.example"),
        ({"detail": "(https://h.example/a,https://h.example/c4n4ry)"}, "(https://h.example"),
        ({"detail": "sig=c4n4ry,see=https://h.example/x"}, "sig=***"),
        ({"detail": "api_key=c4n4ry=="}, "api_key=***"),
        ({"detail": "https%3A%2F%2Fh.example%2Fx%3FX-Canary-Signature%3Dc4n4ry"}, "https://h.example"),
        ({"detail": "sig%3dc4n4ry"}, "sig=***"),
        ({"detail": "a draft? Really? 1/2"}, "a draft? Really? 1/2"),
        ({"detail": '"/x?X-Canary-Signature=c4n4ry"'}, '"/x'),
        ({"detail": f"the token Bearer {TOKEN} has no access"}, "the token Bearer *** has no access"),
    ],
)
async def test_the_servers_words_are_kept_and_defused(members, said):
    """The message tells what the problem body says in any of its shapes, without controls, the
    token, and what is a link's or a parameter's own."""
    assert str(await outcome(problem(400, **members))) == f"HTTP 400 from the API: {said}"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"detail": 7}', b'{"detail":' * 5000, b"x" * 2**20])
async def test_a_problem_without_words(body):
    """An error body that says nothing usable changes nothing about the error."""
    assert str(await outcome(reply(404, body))) == "HTTP 404 from the API"


async def test_long_words_are_cut():
    """A message is at most 500 characters, however much the server has to say."""
    assert 400 < len(str(await outcome(problem(400, detail="wo rt " * 9000)))) <= 500
    assert len(str(await outcome(problem(400, detail="\x00" * 9000)))) <= 500


async def test_a_refused_life_of_links_is_a_configuration_error():
    """422 that names secondsValid would meet every invoice: the run stops and names the setting."""
    error = await outcome(problem(422, violations=[{"propertyPath": "secondsValid", "message": "zu kurz"}]))
    assert type(error) is FatalError
    assert "api.link_seconds = 600" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([30.0], id="silence"),
        pytest.param([part for byte in GRANTED for part in (bytes([byte]), 0.05)], id="drip"),
        pytest.param([GRANTED[:-5], 30.0], id="unfinished"),
    ],
)
async def test_slow_answers_time_out(answer):
    """The whole answer has one deadline: a drip of header or body bytes does not hold a worker."""
    error = await outcome(answer, deadline=0.25)
    assert (type(error), error.reason) == (OriginError, Reason.TIMEOUT)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param([RESET], OriginError, id="reset"),
        pytest.param([CLOSE], OriginError, id="closed"),
        pytest.param([GRANTED[:20], RESET], OriginError, id="reset in the head"),
        pytest.param([GRANTED[:-5], 0.02, RESET], TransientError, id="reset in the body"),
        pytest.param([GRANTED[:-5], CLOSE], TransientError, id="closed in the body"),
        pytest.param([b"SSH-2.0-OpenSSH_9.6\r\n", CLOSE], TransientError, id="not HTTP"),
        pytest.param([head(200, {"X-Big": "x" * 70_000}) + b"{}", CLOSE], UnexpectedAnswer, id="huge header"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", CLOSE], TransientError, id="bad length"),
        pytest.param(
            [head(200, {"Transfer-Encoding": "chunked"}) + b"zz\r\n{}\r\n", CLOSE], TransientError, id="bad chunk"
        ),
    ],
)
async def test_broken_connections_are_tried_again(answer, kind):
    """What breaks on the way is transient, wherever it breaks."""
    error = await outcome(answer)
    assert isinstance(error, kind), everything_said(error)


async def test_nobody_listens():
    """A refused connection is the origin's failure."""
    async with fault_server() as api:
        pass
    async with minting(api.url) as minter:
        with pytest.raises(OriginError, match="cannot connect") as caught:
            await minter.mint("INV-1")
        assert caught.value.reason is Reason.CONNECTION


async def test_a_stale_connection_is_nobodys_failure():
    """A kept connection that the server has closed meanwhile is replaced without an error."""
    async with fault_server() as api, minting(api.url) as minter:
        api.on("/", [GRANTED, CLOSE], [GRANTED], [CLOSE], [GRANTED])
        for number in range(3):
            assert (await minter.mint(f"INV-{number}")).url == LINK
        assert api.connections == 3


async def test_proxy_settings_have_no_effect(monkeypatch, tmp_path):
    """Proxy variables and .netrc are not read: a proxy would see tokens and signed links."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with fault_server() as api, fault_server() as proxy, minting(api.url) as minter:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        api.on("/", GRANTED)
        await minter.mint("INV-1")
        assert proxy.connections == 0
        assert api.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


async def test_a_refusal_closes_the_gate_for_everybody():
    """After the first 429s, with nothing answered, no request leaves before the pause is over, whoever asks."""
    events = []
    async with fault_server() as api, minting(api.url, gate=new_gate(notify=events.append)) as minter:
        api.on("/", reply(429, headers={"Retry-After": "1"}))
        for number in range(4):
            await refused(minter, f"FIRST-{number}")
        with anyio.move_on_after(0.3):
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(minter.mint, f"INV-{number}")
        assert len(api.requests) == 4
        assert "HTTP 429" in events[0].reason


async def refused(minter, invoice_id="BAD"):
    """The error by which `invoice_id` is refused."""
    with pytest.raises(TransientError) as caught:
        await minter.mint(invoice_id)
    assert (type(caught.value), caught.value.reason, caught.value.http_status) == (Throttled, Reason.RATE_LIMITED, 429)
    return caught.value


async def test_an_invoice_that_alone_is_refused_stops_nobody():
    """However long it is to wait, and however often it is asked for: the gate stays open for all others."""
    events = []
    async with fault_server() as api, minting(api.url, gate=(gate := new_gate(notify=events.append))) as minter:
        api.on("/", GRANTED)
        api.on("/invoices/BAD", reply(429, headers={"Retry-After": "600"}))
        await minter.mint("GOOD")
        for _ in range(6):
            assert (await refused(minter)).retry_after == 600.0
            with anyio.fail_after(1.0):
                await minter.mint("GOOD")
        assert (gate.requests.refused, gate.requests.sent) == (6, 13)
    assert events == []


async def test_many_that_are_refused_beside_one_that_is_answered_are_no_limit():
    """Four in a row make a trial: what was answered is asked again beside what was refused, and nobody has to wait."""
    events = []
    async with fault_server() as api, minting(api.url, gate=new_gate(notify=events.append)) as minter:
        api.on("/", GRANTED)
        for number in range(6):
            api.on(f"/invoices/BAD-{number}", reply(429, headers={"Retry-After": "600"}))
        await minter.mint("GOOD")
        for number in range(4):
            await refused(minter, f"BAD-{number}")
        asked = [request.target for request in api.requests[5:]]
        assert [path.split("/")[2] for path in asked] == ["GOOD", "BAD-1", "GOOD", "BAD-2", "GOOD", "BAD-3"]
        with anyio.fail_after(1.0):
            await minter.mint("GOOD")
    assert events == []


async def test_a_control_that_is_refused_as_well_is_a_limit():
    """Then everybody waits for as long as was asked for."""
    events = []
    async with fault_server() as api, minting(api.url, gate=new_gate(notify=events.append)) as minter:
        api.on("/", GRANTED, reply(429, headers={"Retry-After": "1"}))
        await minter.mint("GOOD")
        for number in range(5):
            await refused(minter, f"BAD-{number}")
    assert [type(event) for event in events] == [OriginDown]


LONE = {
    "402": reply(402),
    "451": reply(451),
    "501": reply(501),
    "505": reply(505),
    "302": reply(302, headers={"Location": "https://elsewhere.example/"}),
    "two hours": reply(429, headers={"Retry-After": "7200"}),
    "over a week": reply(503, headers={"Retry-After": "999999"}),
    "ten digits": reply(429, headers={"Retry-After": "9999999999"}),
    "secondsValid": reply(422, body=b'{"violations": [{"propertyPath": "secondsValid", "message": "too long"}]}'),
    "401": reply(401),
}


@pytest.mark.parametrize("answer", LONE.values(), ids=LONE)
async def test_what_one_invoice_meets_fails_that_one_alone(answer):
    """An invoice that was answered before is asked for once more. If it is answered, the run goes on."""
    async with fault_server() as api, minting(api.url) as minter:
        api.on("/", GRANTED)
        api.on("/invoices/BAD", answer)
        await minter.mint("GOOD")
        with pytest.raises(InvoiceError) as caught:
            await minter.mint("BAD")
        assert isinstance(caught.value, PermanentError) or caught.value.retry_after > 3600.0
        assert api.requests[-1].target.split("/")[2] == "GOOD"
        await minter.mint("ANOTHER")


@pytest.mark.parametrize("answer", LONE.values(), ids=LONE)
async def test_the_first_of_a_list_may_be_the_one_that_meets_it_alone(answer):
    """Where nothing was answered yet, what is under way is waited for."""
    async with fault_server() as api, minting(api.url) as minter, anyio.create_task_group() as tasks:
        api.on("/", [0.3, GRANTED], GRANTED)
        api.on("/invoices/BAD", answer)
        tasks.start_soon(minter.mint, "GOOD")
        await anyio.sleep(0.1)
        with pytest.raises(InvoiceError):
            await minter.mint("BAD")
        assert api.requests[-1].target.split("/")[2] == "GOOD"


@pytest.mark.parametrize("answer", LONE.values(), ids=LONE)
async def test_what_all_meet_stops_the_run(answer):
    """Where nothing was answered yet, or the control meets it as well, nobody is charged."""
    async with fault_server() as api, minting(api.url) as minter:
        api.on("/", answer)
        with pytest.raises(FatalError):
            await minter.mint("FIRST")
    async with fault_server() as api, minting(api.url) as minter:
        api.on("/", GRANTED, answer)
        await minter.mint("GOOD")
        with pytest.raises(FatalError):
            await minter.mint("BAD")


@pytest.fixture
def authority(monkeypatch):
    """A certificate authority that the sessions trust."""
    made = trustme.CA()
    context = ssl.create_default_context()
    made.configure_trust(context)
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", context)
    return made


def served_by(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def mint_over_tls(certificate):
    async with fault_server(served_by(certificate)) as api, minting(api.url) as minter:
        api.on("/", GRANTED)
        try:
            return await minter.mint("INV-1"), api
        except BulkfetchError as error:
            assert_keeps_secrets(error)
            return error, api


async def test_a_trusted_certificate(authority):
    """The control of the tests below: with a right certificate the same set-up mints."""
    link, _ = await mint_over_tls(authority.issue_cert("127.0.0.1"))
    assert link.url == LINK


@pytest.mark.parametrize("flaw", ["unknown authority", "wrong host", "expired"])
async def test_a_wrong_certificate_stops_the_run(authority, flaw):
    """No request, and so no token, goes to a server whose certificate is wrong, and nothing is tried again."""
    if flaw == "unknown authority":
        certificate = trustme.CA().issue_cert("127.0.0.1")
    elif flaw == "wrong host":
        certificate = authority.issue_cert("other.example")
    else:
        certificate = authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    error, api = await mint_over_tls(certificate)
    assert type(error) is FatalError
    assert "TLS certificate" in str(error)
    assert api.requests == []


async def test_plain_http_on_the_tls_port():
    """A handshake that fails for other reasons than the certificate may succeed another time."""

    async def answer_at_once(reader, writer):
        writer.write(reply(400))
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(answer_at_once, "127.0.0.1", 0)
    async with server, minting(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as minter:
        with pytest.raises(OriginError) as caught:
            await minter.mint("INV-1")
        assert_keeps_secrets(caught.value)
