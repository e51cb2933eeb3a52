"""What goes to stdout and what to stderr, and that nobody has to listen."""

import json
import os
import shlex
import signal
import subprocess
import time

import pytest
from support.program import (
    PATIENCE,
    assert_sound,
    bulkfetch,
    command,
    environment,
    ids_of,
    objects,
    rows,
    sandbox,
    started,
    summary,
    until,
    write_ids,
)


@pytest.fixture
def prepared(tmp_path):
    """A sandbox with some drafts, and the arguments of a run on it."""
    with sandbox(invoices=50, drafts=0.1) as served:
        source = write_ids(tmp_path / "ids.txt", [*ids_of(served), "..", ids_of(served)[0]])
        yield tmp_path / "archive", ("run", source, "--to", tmp_path / "archive", "--api-url", served.api_url)


def test_json_rows_are_the_manifest(prepared):
    """--json puts each manifest row on stdout as a line of JSON, and nothing else; people read stderr."""
    dest, args = prepared
    done = bulkfetch(*args, "--json")
    assert done.returncode == 3, done.stderr
    (manifest,) = (dest / "manifests").glob("*.jsonl")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        json.loads(line) for line in manifest.read_text().splitlines()
    ]
    assert len(rows(dest)) == 52
    assert "finished, but not complete: " in done.stderr
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert "\u2501" not in done.stderr


def test_json_log_is_json_to_the_last_line(prepared):
    """--log-format json makes each line of stderr an object, the summary the last."""
    dest, args = prepared
    lines = [json.loads(line) for line in bulkfetch(*args, "--log-format", "json", "-vv").stderr.splitlines()]
    assert lines[0]["event"] == "RunStarted"
    assert lines[-1]["summary"]["run"] == summary(dest).run
    assert sum(line["event"] == "RowRecorded" for line in lines) == 52


def test_quiet_says_only_what_is_missing(prepared):
    """-q tells a summary where something failed, and nothing at all where nothing did."""
    dest, (name, source, *args) = prepared
    assert "unprocessable" in bulkfetch(name, source, *args, "-q").stderr
    stored = [row.invoice_id for row in rows(dest) if row.outcome == "stored"]
    done = bulkfetch(name, write_ids(source, stored), *args, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_closed_stdout_does_not_end_the_run(prepared):
    """`bulkfetch run --json | head -1`: the reader leaves, the archive is completed."""
    dest, args = prepared
    with subprocess.Popen(
        command(*args, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment("sandbox", {})
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        err = process.stderr.read().decode()
        code = process.wait(PATIENCE)
    assert code == 3, err
    assert "Traceback" not in err
    assert "of 52 rows could not be written to stdout: its reader has gone; the manifest has them all" in err
    assert "finished, but not complete: " in err
    assert len(objects(dest)) == summary(dest).counts.stored
    assert len(rows(dest)) == 52


def test_a_closed_stderr_does_not_end_the_run(prepared):
    """Nobody has to read what is told, either."""
    dest, args = prepared
    with subprocess.Popen(
        command(*args, "-vv"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment("sandbox", {})
    ) as process:
        assert process.stderr
        process.stderr.readline()
        process.stderr.close()
        assert process.wait(PATIENCE) == 3
    assert len(rows(dest)) == 52


@pytest.mark.parametrize(
    "redirected", ["--json >/dev/full", "-vv 2>/dev/full", "--json >&-", "2>&-", "--json >&- 2>&- <&-"]
)
def test_no_stream_can_end_a_run(tmp_path, redirected):
    """A full disk behind a stream, or a stream that was closed, costs what would have been said, never the run."""
    with sandbox(invoices=10) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        line = shlex.join(command("run", source, "--to", dest, "--api-url", served.api_url))
        done = subprocess.run(
            ["sh", "-c", f"{line} {redirected}"], env=environment("sandbox", {}), capture_output=True, timeout=40
        )
    assert done.returncode == 0, done.stderr
    assert summary(dest).counts.stored == 10
    assert_sound(dest)


def test_a_token_command_does_not_eat_the_input(tmp_path):
    """A token command that reads its standard input leaves the invoice IDs to the run."""
    with sandbox(invoices=10) as served:
        (tmp_path / "bulkfetch.toml").write_text(
            '[api]\ntoken_command = ["sh", "-c", "cat >/dev/null; echo sandbox"]\n'
        )
        ids = "".join(f"{invoice_id}\n" for invoice_id in ids_of(served)).encode()
        done = bulkfetch(
            "run", "-", "--to", tmp_path / "a", "--api-url", served.api_url, token=None, stdin=ids, cwd=tmp_path
        )
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "a").counts.stored == 10


def test_a_pipe_without_a_writer_does_not_hold_up_the_end(tmp_path):
    """SIGTERM ends a run that waits for somebody to open the other end of its named pipe."""
    os.mkfifo(tmp_path / "ids.txt")
    with (
        sandbox(invoices=1) as served,
        started("run", tmp_path / "ids.txt", "--to", tmp_path / "a", "--api-url", served.api_url) as process,
    ):
        until(lambda: list(tmp_path.glob("a/manifests/*.jsonl")), process)
        time.sleep(0.2)
        process.terminate()
        assert process.wait(10) == 143


def test_rows_that_a_full_disk_costs_are_told(prepared):
    """`--json >/dev/full`: the run says so on stderr, above its summary, and ends as it went."""
    _, args = prepared
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*args, "--json"), stdout=full, stderr=subprocess.PIPE, env=environment("sandbox", {}), timeout=40
        )
    err = done.stderr.decode()
    assert done.returncode == 3, err
    told = "52 of 52 rows could not be written to stdout: No space left on device"
    assert 0 < err.index(told) < err.index("finished, but not complete: ")


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["plan", "ids.txt", "--to", "a"]])
def test_a_full_stdout_is_no_bug(tmp_path, args):
    """Other commands end as they went, too, and say that something is missing."""
    write_ids(tmp_path / "ids.txt", ["re-1"])
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*args), stdout=full, stderr=subprocess.PIPE, env=environment(None, {}), timeout=40, cwd=tmp_path
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"bulkfetch: warning: not all output could be written to stdout: No space left on device\n"


@pytest.fixture
def stalled(tmp_path):
    """A run whose stdout nobody reads; when it has archived far more than a pipe holds."""
    with sandbox(invoices=1000, size=500) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url, "--json", "--drain", 2)
        with started(*args) as process:
            until(lambda: served.stats.downloads > 400, process)
            yield process, dest, served


def test_a_reader_that_stalls_gets_every_row_in_the_end(stalled):
    """Nobody reads until all is archived: nothing waits for that, and nothing is lost by it."""
    process, dest, served = stalled
    until(lambda: list(dest.glob("manifests/*.json")), process)
    assert served.stats.downloads == 1000
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert [json.loads(line)["invoice_id"] for line in out.splitlines()] == [row.invoice_id for row in rows(dest)]
    assert b"could not be written" not in err


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_reader_that_stalls_does_not_hold_up_a_stop(stalled, signum):
    """The run ends within its drain, at a second signal at once, and tells what was not read."""
    process, dest, _ = stalled
    process.send_signal(signum)
    began = time.monotonic()
    if signum == signal.SIGINT:
        until(lambda: list(dest.glob("manifests/*.json")), process)
        process.send_signal(signum)
    assert process.wait(30) == 128 + signum
    assert time.monotonic() - began < 2 + 8
    assert process.stderr
    assert "rows could not be written to stdout: its reader took no more" in process.stderr.read().decode()
    assert summary(dest).exit_code == 128 + signum


def test_a_finished_run_that_waits_for_its_reader_ends_as_it_went(stalled):
    """A signal ends the wait, not the outcome: all was archived, and the exit code says so."""
    process, dest, _ = stalled
    until(lambda: list(dest.glob("manifests/*.json")), process)
    time.sleep(0.5)
    process.terminate()
    assert process.wait(30) == summary(dest).exit_code == 0


def test_a_log_that_nobody_reads_does_not_hold_up_a_stop(tmp_path):
    """Nor does a reader of stderr who stalls."""
    with sandbox(invoices=2000, size=500) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url, "-vv", "--drain", 2)
        with started(*args) as process:
            until(lambda: served.stats.downloads > 900, process)
            process.terminate()
            began = time.monotonic()
            assert process.wait(30) == 143
            assert time.monotonic() - began < 2 + 8
    assert summary(dest).counts.stored > 900
