"""The sandbox keeps the API's contract on real sockets, and fails when it is told to."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import anyio
import pytest

from bulkfetch.sandbox import Faults, SandboxSettings, serve

pytestmark = pytest.mark.anyio

BEARER = {"Authorization": "Bearer sandbox"}


@asynccontextmanager
async def running(**settings):
    """A sandbox, a client, and the path of the first invoice's link."""
    async with serve(SandboxSettings(**{"invoices": 50, **settings})) as sandbox, aiohttp.ClientSession() as client:
        yield sandbox, client, f"{sandbox.api_url}/invoices/{sandbox.book.invoice_id(0)}/download-link"


async def mint(client, url, **params):
    async with client.put(url, headers=BEARER, params=params) as response:
        assert response.status == 200
        return (await response.json())["url"]


async def refused(client, method, url, **kwargs):
    """Status, headers and problem body of an answer."""
    async with client.request(method, url, **kwargs) as response:
        assert response.content_type == "application/problem+json"
        body = await response.json()
        assert body["status"] == response.status
        assert body["title"]
        assert body["detail"]
        return response.status, response.headers, body


async def test_link_leads_to_the_pdf():
    """PUT gives a link on the other port, and GET of it the PDF with its type and length, as often as one likes."""
    async with running() as (sandbox, client, url):
        link = await mint(client, url)
        assert link.startswith(f"{sandbox.files_url}/documents/")
        assert sandbox.files_url != sandbox.api_url
        for _ in range(2):
            async with client.get(link) as response:
                pdf = await response.read()
                assert response.content_type == "application/pdf"
                assert response.content_length == len(pdf) == sandbox.book.find(sandbox.book.invoice_id(0)).size
                assert pdf.startswith(b"%PDF-")
        assert (sandbox.stats.links, sandbox.stats.downloads) == (1, 2)


async def test_only_put():
    """Any other method is answered 405, and told which one is allowed."""
    async with running() as (sandbox, client, url):
        for method in ("GET", "POST", "DELETE"):
            status, headers, _ = await refused(client, method, url, headers=BEARER)
            assert (status, headers["Allow"]) == (405, "PUT")
        assert sandbox.stats.links == 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": "Basic sandbox"}])
async def test_token_is_checked(headers):
    """A missing or wrong token is answered 401 with the scheme that is wanted."""
    async with running() as (sandbox, client, url):
        status, answered, _ = await refused(client, "PUT", url, headers=headers)
        assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
        assert sandbox.stats.unauthorized == 1


@pytest.mark.parametrize("seconds", ["4", "0", "-60", "", "60.0", "soon", "٦٠", "9" * 5000])
async def test_seconds_valid_is_checked(seconds):
    """`secondsValid` that is no integer of at least 5 is answered 422 with the violation named."""
    async with running() as (_, client, url):
        status, _, body = await refused(client, "PUT", url, headers=BEARER, params={"secondsValid": seconds})
        assert status == 422
        assert [each["propertyPath"] for each in body["violations"]] == ["secondsValid"]


async def test_link_lives_as_long_as_asked():
    """The link expires `secondsValid` after now, and after a day if nothing was asked."""
    async with running() as (_, client, url):
        short, default = await mint(client, url, secondsValid=5), await mint(client, url)
        expiry = [int(re.search(r"expires=(\d+)", link)[1]) for link in (short, default)]
        assert 86_394 <= expiry[1] - expiry[0] <= 86_396


async def test_unknown_and_draft():
    """An unknown ID or route is answered 404, and a draft 422."""
    async with running(drafts=1.0) as (sandbox, client, url):
        assert (await refused(client, "PUT", url, headers=BEARER))[0] == 422
        unknown = url.replace(sandbox.book.invoice_id(0), sandbox.book.invoice_id(10_000))
        assert (await refused(client, "PUT", unknown, headers=BEARER))[0] == 404
        assert (await refused(client, "PUT", f"{sandbox.api_url}/invoices//download-link"))[0] == 404
        assert (await refused(client, "GET", f"{sandbox.api_url}/invoices"))[0] == 404
        assert (sandbox.stats.unprocessable, sandbox.stats.not_found) == (1, 1)


async def test_forged_links_are_refused():
    """A link with another expiry, document or signature, or with none, is answered 403."""
    async with running() as (sandbox, client, url):
        link = await mint(client, url)
        other = sandbox.book.invoice_id(1)
        forged = [
            re.sub(r"expires=\d+", "expires=99999999999", link),
            link.replace(sandbox.book.invoice_id(0), other),
            link[:-1] + ("0" if link[-1] != "0" else "1"),
            link.partition("?")[0],
            link.partition("?")[0] + "?signature=ä&expires=x",
        ]
        for each in forged:
            async with client.get(each) as response:
                assert response.status == 403
                assert "<Code>SignatureDoesNotMatch</Code>" in await response.text()
        assert (sandbox.stats.forged, sandbox.stats.downloads) == (5, 0)


async def test_expire_fault():
    """With `expire` the API mints links that the files port answers 403."""
    async with running(faults=Faults(expire=1.0)) as (sandbox, client, url):
        async with client.get(await mint(client, url)) as response:
            assert response.status == 403
            assert "expired" in await response.text()
        assert (sandbox.stats.links, sandbox.stats.expired) == (1, 1)


async def test_leaked_token_is_refused_and_counted():
    """A download that carries an Authorization header is answered 400, and leaves its trace in the counters."""
    async with running() as (sandbox, client, url):
        link = await mint(client, url)
        async with client.get(link, headers=BEARER) as response:
            assert response.status == 400
        assert (sandbox.stats.authorization_leaks, sandbox.stats.downloads) == (1, 0)


async def test_rate_limit():
    """Beyond the burst the API answers 429, and after the seconds it names the client may go on."""
    async with running(rate_limit=1.0) as (sandbox, client, url):
        await mint(client, url)
        status, headers, _ = await refused(client, "PUT", url, headers=BEARER)
        assert (status, headers["Retry-After"]) == (429, "1")
        await anyio.sleep(int(headers["Retry-After"]))
        await mint(client, url)
        assert (sandbox.stats.refused_429, sandbox.stats.links) == (1, 2)


async def test_throttle_fault():
    """With `throttle` the API answers 429 with `Retry-After: 1` without any limit being set."""
    async with running(faults=Faults(throttle=1.0)) as (sandbox, client, url):
        status, headers, _ = await refused(client, "PUT", url, headers=BEARER)
        assert (status, headers["Retry-After"], sandbox.stats.refused_429) == (429, "1", 1)


async def test_errors_fault():
    """With `errors` both ports answer 5xx."""
    async with running(faults=Faults(errors=1.0)) as (sandbox, client, url):
        assert (await refused(client, "PUT", url, headers=BEARER))[0] >= 500
        async with client.get(f"{sandbox.files_url}/documents/x") as response:
            assert response.status >= 500
        assert sandbox.stats.errors_5xx == 2


async def test_truncate_fault():
    """With `truncate` the whole length is promised, half of it comes, and the connection ends."""
    async with running(faults=Faults(truncate=1.0)) as (sandbox, client, url):
        link = await mint(client, url)
        received = bytearray()
        with pytest.raises(aiohttp.ClientPayloadError):
            async with client.get(link) as response:
                promised = response.content_length
                async for chunk in response.content.iter_any():
                    received += chunk
        assert len(received) == promised // 2
        assert (sandbox.stats.truncated, sandbox.stats.downloads) == (1, 0)


async def test_not_pdf_fault():
    """With `not_pdf` a download is XML under status 200."""
    async with running(faults=Faults(not_pdf=1.0)) as (sandbox, client, url):
        async with client.get(await mint(client, url)) as response:
            assert (response.status, response.content_type) == (200, "application/xml")
            assert b"%PDF" not in await response.read()
        assert (sandbox.stats.not_pdf, sandbox.stats.downloads) == (1, 0)


async def test_not_found_fault_is_permanent():
    """With `not_found` the same IDs are unknown on each call, and the others are served."""
    async with running(faults=Faults(not_found=0.5)) as (sandbox, client, url):
        known = [sandbox.book.find(each) is not None for each in sandbox.book.ids()]
        assert 0 < sum(known) < 50
        for _ in range(2):
            for index in range(10):
                target = url.replace(sandbox.book.invoice_id(0), sandbox.book.invoice_id(index))
                async with client.put(target, headers=BEARER) as response:
                    assert response.status == (200 if known[index] else 404)


async def test_latency_fault():
    """With `latency` an answer takes at least half of the seconds named."""
    async with running(faults=Faults(latency=0.1)) as (_, client, url):
        began = anyio.current_time()
        await mint(client, url)
        assert anyio.current_time() - began >= 0.05


async def test_faults_follow_from_the_seed():
    """The same seed meets the same requests with the same faults."""

    async def statuses():
        async with running(seed=5, faults=Faults(errors=0.3, throttle=0.3)) as (_, client, url):
            return [(await client.put(url, headers=BEARER)).status for _ in range(30)]

    first = await statuses()
    assert first == await statuses()
    assert len(set(first)) > 2


async def test_requests_are_recorded_on_demand():
    """PUTs and GETs are counted by ID if asked for, and only then."""
    async with running(record_requests=True) as (sandbox, client, url):
        (await client.get(await mint(client, url))).close()
        await mint(client, url)
        invoice_id = sandbox.book.invoice_id(0)
        assert (sandbox.stats.puts, sandbox.stats.gets) == ({invoice_id: 2}, {invoice_id: 1})
    async with running() as (sandbox, client, url):
        await mint(client, url)
        assert not sandbox.stats.puts


async def test_ports_close():
    """After the block nothing listens on either port any more, and the API's port can be taken again at once."""
    async with serve(SandboxSettings()) as sandbox:
        ports = [int(url.rpartition(":")[2]) for url in (sandbox.api_url, sandbox.files_url)]
    for port in ports:
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.1", port)
    async with serve(SandboxSettings(port=ports[0])) as sandbox:
        assert sandbox.api_url.endswith(str(ports[0]))


@contextmanager
def sandbox_command(*options, **environ):
    """The installed command as a process, which does not outlive the block."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("BULKFETCH_")} | environ
    command = [sys.executable, "-m", "bulkfetch", "sandbox", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
            process.wait(timeout=10)
        finally:
            process.kill()


def read_until(stream, text):
    """What the command says, up to the line that holds `text` or the end."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_it_is_told_to_stop(tmp_path, end):
    """The command writes the IDs, serves, names the next command, and ends with counters and code 0 on a signal."""
    ids = tmp_path / "ids.txt"
    with sandbox_command("--port", "0", "--invoices", "3", "--ids", str(ids)) as process:
        shown = read_until(process.stderr, "bulkfetch run")
        url = re.search(rf"bulkfetch run {re.escape(str(ids))} --api-url (http://127\.0\.0\.1:\d+) ", shown)[1]
        assert "export BULKFETCH_TOKEN=sandbox" in shown
        assert ids.read_text().split() == list(SandboxSettings(invoices=3).book().ids())
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(f"{url}/invoices/x/download-link", method="PUT"))
        process.send_signal(end)
        assert "unauthorized 1" in process.stderr.read()
    assert process.returncode == 0


def test_command_does_not_show_the_users_token():
    """A token from the environment is what the sandbox takes, and is not printed."""
    with sandbox_command("--port", "0", BULKFETCH_TOKEN="s3cret-of-mine") as process:
        shown = read_until(process.stderr, "bulkfetch run")
        url = re.search(r"--api-url (\S+)", shown)[1]
        bearer = {"Authorization": "Bearer s3cret-of-mine"}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(
                urllib.request.Request(f"{url}/invoices/x/download-link", None, bearer, method="PUT")
            )
        process.send_signal(signal.SIGTERM)
        shown += process.stderr.read()
    assert "s3cret" not in shown


def test_command_says_that_the_port_is_taken():
    """A port in use ends the command with code 2 and one line that names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with sandbox_command("--port", port) as process:
            shown = process.stderr.read()
    assert process.returncode == 2
    assert port in shown
    assert len(shown.splitlines()) == 1


def test_command_keeps_a_foreign_list_of_ids(tmp_path):
    """A file of other IDs is not overwritten by --ids, a list of the sandbox's own is."""
    ids = tmp_path / "ids.txt"
    ids.write_text("my-own-invoice\n")
    with sandbox_command("--port", "0", "--ids", str(ids)) as process:
        shown = process.stderr.read()
    assert (process.returncode, ids.read_text()) == (2, "my-own-invoice\n")
    assert str(ids) in shown
    ids.write_text(SandboxSettings().book().invoice_id(0) + "\n")
    with sandbox_command("--port", "0", "--ids", str(ids)) as process:
        read_until(process.stderr, "bulkfetch run")
        process.send_signal(signal.SIGTERM)
    assert len(ids.read_text().split()) == 1000


def test_command_module_loads_no_server():
    """Importing the command loads neither aiohttp nor anyio, so that help stays quick."""
    script = "import sys, bulkfetch.cli.sandbox; sys.exit(bool({'aiohttp', 'anyio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
