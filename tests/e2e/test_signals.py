"""SIGINT and SIGTERM: the run ends in order and in time, and the next one goes on from there."""

import signal
import subprocess
import time

import anyio
import pytest
from aiohttp import web
from support.program import (
    all_rows,
    assert_sound,
    bulkfetch,
    http_server,
    ids_of,
    objects,
    rows,
    sandbox,
    started,
    summary,
    until,
    write_ids,
)

DRAIN = 1
MARGIN = 10
"""Seconds that a busy machine may add to the drain; far below any pause or transfer that would be waited out."""

MORE_TRIES = {"BULKFETCH_RETRY_ATTEMPTS": "10"}
"""So many that those at work are not given up before the breaker opens, and so few that it opens soon."""


def ended(process, signum, *, within=DRAIN + MARGIN):
    """Send `signum`; the exit code and stderr, which must come within so many seconds."""
    process.send_signal(signum)
    began = time.monotonic()
    _, err = process.communicate(timeout=40)
    assert time.monotonic() - began < within
    assert b"Traceback" not in err, err.decode()
    return process.returncode, err.decode()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_an_interrupted_run_is_whole_and_the_next_completes_it(tmp_path, signum, code):
    """What is in hand is finished, the summary is written; the next run fetches only what has no row."""
    with sandbox(invoices=200, faults={"latency": 0.1}) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url)
        with started(*args, "--workers", 8) as process:
            until(lambda: served.stats.downloads > 30, process)
            assert ended(process, signum)[0] == code
        told = summary(dest)
        assert (told.exit_code, told.complete) == (code, False)
        assert told.stopped_by == f"interrupted by {signum.name}"
        assert 0 < told.counts.stored == told.counts.read < 200
        assert {row.key for row in rows(dest)} == objects(dest).keys()
        assert_sound(dest)
        assert bulkfetch(*args).returncode == 0
        assert max(served.stats.gets.values()) == 1
    assert summary(dest).counts.skipped == told.counts.stored
    assert len(objects(dest)) == 200
    assert_sound(dest)


def test_sigterm_during_a_long_retry_after(tmp_path):
    """A pause that the server asked for does not hold up the end, and fails nobody."""

    async def serve(request):
        return web.json_response({"title": "slow down"}, status=429, headers={"Retry-After": "600"})

    source, dest = write_ids(tmp_path / "ids.txt", [f"INV-{n}" for n in range(50)]), tmp_path / "archive"
    with (
        http_server(serve) as url,
        started("run", source, "--to", dest, "--api-url", url, "--drain", DRAIN, "-v") as run,
    ):
        assert run.stderr
        until(lambda: b"paused" in run.stderr.readline(), run)
        code, err = ended(run, signal.SIGTERM)
    assert code == 143, err
    assert rows(dest) == []
    assert summary(dest).stopped_by == "interrupted by SIGTERM"


def test_sigterm_during_an_outage(tmp_path):
    """With the breaker open, too."""

    async def serve(request):
        return web.json_response({"title": "broken"}, status=500)

    source, dest = write_ids(tmp_path / "ids.txt", [f"INV-{n}" for n in range(50)]), tmp_path / "archive"
    args = ("run", source, "--to", dest, "--drain", DRAIN, "-v")
    with http_server(serve) as url, started(*args, "--api-url", url, **MORE_TRIES) as run:
        assert run.stderr
        until(lambda: b"out of service" in run.stderr.readline(), run)
        code, err = ended(run, signal.SIGTERM)
    assert code == 143, err
    assert rows(dest) == []


def test_a_second_sigint_ends_at_once(tmp_path):
    """Slow downloads get the drain after the first SIGINT; the second hands them back, and nothing partial is seen."""
    opened = []

    async def serve(request):
        if request.method == "PUT":
            invoice_id = request.path.split("/")[2]
            return web.json_response({"url": f"http://{request.host}/files/{invoice_id}"})
        response = web.StreamResponse(headers={"Content-Type": "application/pdf", "Content-Length": "1000000"})
        await response.prepare(request)
        await response.write(b"%PDF-1.7\n" + bytes(50_000))
        opened.append(request.path)
        while request.transport is not None:
            await response.write(b".")
            await anyio.sleep(0.05)
        return response

    source, dest = write_ids(tmp_path / "ids.txt", [f"INV-{n}" for n in range(50)]), tmp_path / "archive"
    args = ("run", source, "--to", dest, "--drain", "300")
    with http_server(serve) as url, started(*args, "--api-url", url, BULKFETCH_TIMEOUTS_MIN_SPEED="0") as run:
        until(lambda: len(opened) == 4, run)
        run.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.5)
        code, err = ended(run, signal.SIGINT)
    assert code == 130, err
    assert rows(dest) == []
    assert objects(dest) == {}
    assert list((dest / ".bulkfetch" / "tmp").glob("*")) == []
    assert summary(dest).counts.read == 0


def test_what_a_signal_cut_off_has_no_row(tmp_path):
    """Without any drain, invoices in hand go back: the manifest holds none of them as failed."""
    with sandbox(invoices=60, faults={"latency": 0.2}) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        with started("run", source, "--to", dest, "--api-url", served.api_url, "--drain", 0) as process:
            until(lambda: served.stats.downloads > 4, process)
            assert ended(process, signal.SIGTERM)[0] == 143
    assert {row.outcome for row in all_rows(dest)} == {"stored"}
    assert summary(dest).counts.failed == 0
    assert_sound(dest)


def test_sigterm_while_standard_input_is_idle(tmp_path):
    """A producer that says nothing more does not hold up the end; what it sent before is archived."""
    with sandbox(invoices=20) as served:
        dest = tmp_path / "archive"
        with started("run", "-", "--to", dest, "--api-url", served.api_url) as process:
            assert process.stdin
            process.stdin.write("".join(f"{invoice_id}\n" for invoice_id in ids_of(served)).encode())
            process.stdin.flush()
            until(lambda: dest.is_dir() and len(objects(dest)) == 20, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(DRAIN + MARGIN) == 143
    told = summary(dest)
    assert (told.counts.stored, told.complete, told.input_sha256) == (20, False, None)


def test_nohup_is_respected(tmp_path):
    """A run whose SIGHUP is ignored outlives its terminal."""
    with sandbox(invoices=100, faults={"latency": 0.05}) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with started("run", source, "--to", dest, "--api-url", served.api_url, "--workers", 4) as process:
                until(lambda: served.stats.downloads > 5, process)
                process.send_signal(signal.SIGHUP)
                assert process.wait(40) == 0
        finally:
            signal.signal(signal.SIGHUP, before)
    assert summary(dest).counts.stored == 100
