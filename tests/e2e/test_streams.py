"""What goes to stdout and what to stderr, and that nobody has to listen."""

import json
import subprocess

import pytest
from e2e.harness import (
    PATIENCE,
    bulkfetch,
    command,
    environment,
    ids_of,
    objects,
    rows,
    sandbox,
    summary,
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
    assert "finished with failures" in done.stderr
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
    assert "finished with failures" in err
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
