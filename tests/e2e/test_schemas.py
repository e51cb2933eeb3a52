"""docs/schema: what a run says of itself is as the published schemas have it, and they let nothing else pass."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from support.bucket_archive import PREFIX, content, machine
from support.program import bulkfetch, ids_of, sandbox, write_ids
from support.rows import NOW

from bulkfetch.cli.log import JsonLogListener, Level
from bulkfetch.errors import ExitCode, Reason
from bulkfetch.events import RowCorrected
from bulkfetch.manifest import encode_rows
from bulkfetch.models import Counts, DeadLetter, Outcome, RequestCounts, Row, Summary

SCHEMAS = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text("utf-8"))
    for path in sorted((Path(__file__).parents[2] / "docs" / "schema").iterdir())
}
REGISTRY = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values())
VALIDATORS = {name: Draft202012Validator(schema, registry=REGISTRY) for name, schema in SCHEMAS.items()}


def problems(name, record):
    return [f"{error.json_path}: {error.message}" for error in VALIDATORS[name].iter_errors(record)]


def assert_told_exactly(name, record):
    """The record fits its schema, and neither with a member more nor with one less that the schema calls required."""
    assert problems(name, record) == [], record
    assert problems(name, {**record, "unheard_of": None})
    for key in SCHEMAS[name].get("required", record):
        assert problems(name, {other: value for other, value in record.items() if other != key}), key


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def files(dest, suffix):
    return [path.read_text("utf-8") for path in sorted((dest / "manifests").glob(f"*{suffix}"))]


def check(done, dest):
    """Check all that a run said, and return it: its log, and its rows on stdout beside those in all manifests."""
    log = lines(done.stderr)
    for event in log:
        assert_told_exactly("log-event", event)
    rows = [row for text in [done.stdout, *files(dest, ".jsonl")] for row in lines(text)]
    for row in rows:
        assert_told_exactly("row", row)
    for text in files(dest, ".json"):
        assert_told_exactly("summary", json.loads(text))
    assert "seal" in json.loads(files(dest, ".json")[-1])
    return log, rows


def test_what_runs_into_a_directory_say(tmp_path):
    """Rows of every outcome, every event of the log, and the summaries of runs that are complete, finished, or
    neither."""
    dest, source = tmp_path / "archive", tmp_path / "ids.csv"
    with sandbox(invoices=30, drafts=0.1, faults={"errors": 0.1}, rate_limit=3.0, seed=3) as served:
        ids = ids_of(served)
        rows = [f"{each};{number};20{number % 3}" for number, each in enumerate([*ids, ids[0], "a/b", "unknown"])]
        source.write_text("\n".join(["id;number;year", *rows]))
        args = ("run", source, "--to", dest, "--api-url", served.api_url, "--json", "--log-format", "json", "-vv")
        dest.mkdir()
        (dest / f"{ids[1]}.pdf").write_bytes(b"something else")
        log, found = check(bulkfetch(*args), dest)
        assert {row["outcome"] for row in found} == {"stored", "skipped", "failed", "rejected"}
        assert "conflict" in {row["reason"] for row in found if row.get("sha256")}
        told = {event["event"] for event in log}
        assert told >= {"RunStarted", "RowRecorded", "RetryScheduled", "OriginDown", "OriginUp", "Summary"}
        _, again = check(bulkfetch(*args), dest)
        assert "already_stored" in {row["reason"] for row in again}

        stored = next(row["invoice_id"] for row in found if row["outcome"] == "stored")
        source.write_text(f"id\n{stored}\n")
        log, _ = check(bulkfetch(*args), dest)
        assert log[-1]["summary"]["complete"]
        source.write_text("id\nnever-asked-for\n")
        log, _ = check(bulkfetch(*args, token="wrong"), dest)
        assert {"RunStopping", "Summary"} <= {event["event"] for event in log}
        assert (log[-1]["summary"]["exit_code"], log[-1]["summary"]["finished"]) == (5, False)
        source.write_text("id\n")
        log, _ = check(bulkfetch(*args), dest)
        assert "Note" in {event["event"] for event in log}


def test_what_a_run_into_a_bucket_says(seaweed, tmp_path):
    """Rows with what the store says of an object, and a summary whose rows are objects."""
    bucket = seaweed.bucket(versioned=True)
    with sandbox(invoices=5) as served:
        args = ("run", write_ids(tmp_path / "ids.txt", ids_of(served)), "--to", f"s3://{bucket}/{PREFIX}", "--json")
        args += ("--api-url", served.api_url, "--log-format", "json", "-vv")
        done = bulkfetch(*args, **machine(seaweed, tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
    for row in lines(done.stdout):
        assert_told_exactly("row", row)
        assert row["version_id"]
        assert row["e_tag"]
    for event in lines(done.stderr):
        assert_told_exactly("log-event", event)
    (summary,) = [key for key in seaweed.keys(bucket) if key.endswith(".json") and "/manifests/" in key]
    assert_told_exactly("summary", json.loads(content(seaweed, bucket, summary.removeprefix(f"{PREFIX}/"))))


def test_what_a_queue_says(nats, tmp_path):
    """A dead letter, the rows of a queue, which have no lines, and its worker's summary and log."""
    queue, dest = nats.queue(), tmp_path / "archive"
    with sandbox(invoices=5) as served:
        ids = write_ids(tmp_path / "ids.txt", [*ids_of(served), "nobodys"])
        assert bulkfetch("queue", "push", ids, "--queue", queue).returncode == 0
        args = ("run", queue, "--to", dest, "--api-url", served.api_url, "--until-empty", "--idle", 0, "--json")
        done = bulkfetch(*args, "--log-format", "json", "-vv")
        assert done.returncode == 3, done.stderr
    check(done, dest)
    (dead_letter,) = lines(bulkfetch("queue", "dead", "--queue", queue, "--json").stdout)
    assert_told_exactly("dead-letter", dead_letter)


def test_what_is_said_of_a_correction(capsys):
    """The row, and the line of the log, of a correction, which a sound API never makes necessary."""
    row = Row(**about(), outcome=Outcome.FAILED, reason=Reason.WRONG_DOCUMENT, message="it was another's", corrects=3)
    assert_told_exactly("row", json.loads(encode_rows([row])))
    JsonLogListener(Level.INFO)(RowCorrected(row))
    assert_told_exactly("log-event", json.loads(capsys.readouterr().err))


def about():
    return {"run": "20260101T000000Z-0000aa", "invoice_id": "1", "started_at": NOW, "finished_at": NOW}


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one(name):
    """Each file is a valid schema of its own name, and refuses what is no object."""
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == f"{name}.schema.json"
    assert problems(name, [])


def test_the_schemas_have_the_members_and_words_of_the_code():
    """A member or word that is new in the code, or gone from it, is so in docs/schema as well."""
    row, summary = SCHEMAS["row"], SCHEMAS["summary"]
    assert list(row["properties"]) == list(Row.__struct_fields__)
    assert set(row["properties"]["reason"]["enum"]) == {*Reason, None}
    assert set(summary["properties"]) == {*Summary.__struct_fields__, "seal"}
    assert set(summary["properties"]["reasons"]["propertyNames"]["enum"]) == set(Reason)
    assert set(summary["properties"]["exit_code"]["enum"]) == set(ExitCode) - {ExitCode.VERIFY_FAILED}
    assert set(summary["properties"]["counts"]["properties"]) == set(Counts.__struct_fields__)
    assert set(summary["$defs"]["requests"]["properties"]) == set(RequestCounts.__struct_fields__)
    assert list(SCHEMAS["dead-letter"]["properties"]) == list(DeadLetter.__struct_fields__)
