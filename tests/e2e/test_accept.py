"""`bulkfetch accept` from the outside: gaps that a person takes responsibility for."""

import json

from support.bucket_archive import PREFIX, machine, manifests
from support.program import bulkfetch, ids_of, objects, rows, sandbox, started, summary, until, write_ids
from support.queues import dead_letters, stats
from support.schemas import problems

from bulkfetch.manifest import list_runs, read_summary, verify_chain


def status(dest, **environ):
    return json.loads(bulkfetch("status", dest, "--json", token=None, **environ).stdout)


def test_what_is_accepted_is_skipped_until_that_is_withdrawn(tmp_path):
    """The next run does not ask for a gap and is complete; the manifest has who it is about and why, and the chain
    holds. Withdrawn, it is asked for again."""
    with sandbox(invoices=5) as served:
        source, dest = write_ids(tmp_path / "ids.txt", [*ids_of(served), "x-1", "x-2"]), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url)
        assert bulkfetch(*args).returncode == 3
        done = bulkfetch("accept", dest, "x-1", "x-2", "--reason", "cancelled, says accounting", "--json", token=None)
        assert (done.returncode, json.loads(done.stdout)["recorded"]) == (0, 2), done.stderr
        assert [(row.outcome, row.reason, row.message) for row in rows(dest)] == [
            ("skipped", "accepted", "cancelled, says accounting")
        ] * 2
        told = summary(dest)
        assert (told.kind, told.counts.skipped, told.exit_code) == ("accept", 2, 0)
        assert problems("summary", json.loads(list_runs(dest)[-1].summary.read_text())) == []
        asked = served.stats.puts.copy()
        assert bulkfetch(*args).returncode == 0
        assert summary(dest).reasons == {"already_stored": 5, "accepted": 2}
        assert served.stats.puts == asked
        assert bulkfetch("accept", dest, "x-1", "--withdraw", token=None).returncode == 0
        assert bulkfetch(*args).returncode == 3
        assert served.stats.puts["x-1"] == asked["x-1"] + 1
        assert served.stats.puts["x-2"] == asked["x-2"]
    assert verify_chain(dest) == []


def test_what_is_no_gap_is_told(tmp_path):
    """A stored invoice is not recorded (3), an ID that no run has met is recorded with a warning, withdrawing what is
    not accepted is told (3); a missing reason, no ID, or an ID that is none is refused (2)."""
    with sandbox(invoices=2) as served:
        ids, dest = ids_of(served), tmp_path / "archive"
        assert bulkfetch("accept", dest, "x", "--reason", "y", token=None).returncode == 2
        assert not dest.exists()
        args = (write_ids(tmp_path / "ids.txt", ids), "--to", dest, "--api-url", served.api_url)
        assert bulkfetch("run", *args).returncode == 0
    before = len(list_runs(dest))
    stored = bulkfetch("accept", dest, ids[0], "--reason", "no", token=None)
    assert (stored.returncode, "as it is stored" in stored.stderr) == (3, True)
    assert bulkfetch("accept", dest, "x-1", "--withdraw", token=None).returncode == 3
    for args in (("x-1",), ("--reason", "why"), ("a b", "--reason", "why"), ("x-1", "--reason", "  ")):
        assert bulkfetch("accept", dest, *args, token=None).returncode == 2
    assert len(list_runs(dest)) == before
    unknown = bulkfetch("accept", dest, "x-1", "--reason", "why", token=None)
    assert (unknown.returncode, "no run has met this ID: x-1" in unknown.stderr) == (0, True)


def test_a_file_of_gaps(tmp_path):
    """--from takes a list as run does; one bad row, and nothing is recorded."""
    with sandbox(invoices=1) as served:
        dest = tmp_path / "archive"
        ids = write_ids(tmp_path / "ids.txt", [*ids_of(served), "x-1", "x-2"])
        assert bulkfetch("run", ids, "--to", dest, "--api-url", served.api_url).returncode == 3
    gaps = tmp_path / "gaps.csv"
    gaps.write_text("number;id\n1;x-1\n2;a b\n")
    refused = bulkfetch("accept", dest, "--from", gaps, "--reason", "why", token=None)
    assert (refused.returncode, "line 3" in refused.stderr) == (2, True)
    gaps.write_text("number;id\n1;x-1\n2;x-2\n")
    assert bulkfetch("accept", dest, "--from", gaps, "--reason", "why", token=None).returncode == 0
    assert (status(dest)["exit_code"], status(dest)["accepted"]["invoices"]) == (0, 2)


def test_rejected_rows_are_accepted_by_their_run(tmp_path):
    """Rows without a usable ID are accepted with the run that rejected them, named by the status, and count again when
    that is withdrawn, or when a later run of the list rejects rows."""
    with sandbox(invoices=2) as served:
        source, dest = write_ids(tmp_path / "ids.txt", [*ids_of(served), "a b", "c d"]), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url)
        assert bulkfetch(*args).returncode == 3
        run = status(dest)["rejected"][0]["run"]
        accept = ("accept", dest, "--rejected", run)
        assert bulkfetch(*accept, "--reason", "headings", token=None).returncode == 0
        assert [(row.invoice_id, row.line, row.message) for row in rows(dest)] == [
            ("a b", 3, "headings"),
            ("c d", 4, "headings"),
        ]
        told = status(dest)
        assert (told["exit_code"], told["rejected"], told["accepted"]["rejected"]) == (0, [], 2)
        assert bulkfetch(*accept, "--withdraw", token=None).returncode == 0
        assert status(dest)["exit_code"] == 3
        assert bulkfetch(*accept, "--withdraw", token=None).returncode == 2
        assert bulkfetch(*accept, "--reason", "headings", token=None).returncode == 0
        assert bulkfetch(*args).returncode == 3
        assert status(dest)["rejected"][0]["rows"] == 2
        assert bulkfetch(*accept, "--reason", "headings", token=None).returncode == 2


def test_it_works_beside_a_run_and_counts_from_the_next_one(tmp_path):
    """A run that holds the archive neither keeps a person from it nor is disturbed; an object that a dead run left
    without a row is still looked for after it."""
    with sandbox(invoices=150, faults={"latency": 0.1}) as served:
        source, dest = write_ids(tmp_path / "ids.txt", [*ids_of(served), "x-1"]), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url)
        with started(*args, "--workers", 4) as process:
            until(lambda: dest.is_dir() and len(objects(dest)) > 5, process)
            done = bulkfetch("accept", dest, "x-1", "--reason", "why", token=None)
            assert done.returncode == 0, done.stderr
            assert process.poll() is None
            assert process.wait(30) == 3
        kinds = [read_summary(run.summary).kind for run in list_runs(dest)]
        assert kinds == ["run", "accept"]
        assert verify_chain(dest) == []
        assert bulkfetch(*args).returncode == 0


def test_a_push_leaves_out_what_is_accepted(nats, tmp_path):
    """queue push --skip-done queues neither what is stored nor what is accepted, and says so."""
    queue, dest = nats.queue(), tmp_path / "archive"
    with sandbox(invoices=3) as served:
        ids = write_ids(tmp_path / "ids.txt", [*ids_of(served), "x-1", "x-2"])
        assert bulkfetch("run", ids, "--to", dest, "--api-url", served.api_url).returncode == 3
    assert bulkfetch("accept", dest, "x-1", "--reason", "why", token=None).returncode == 0
    done = bulkfetch("queue", "push", ids, "--queue", queue, "--skip-done", dest, "--json", token=None)
    pushed = json.loads(done.stdout)
    assert (pushed["queued"], pushed["already_stored"], pushed["accepted"]) == (1, 3, 1)


def test_dead_letters_are_forgotten_and_accepted_at_once(nats, tmp_path):
    """queue forget --accept makes dead letters accepted gaps of the archive; without a reason, nothing is forgotten."""
    queue, dest = nats.queue(), tmp_path / "archive"
    with sandbox(invoices=2) as served:
        ids = write_ids(tmp_path / "ids.txt", [*ids_of(served), "x-1", "x-2"])
        assert bulkfetch("queue", "push", ids, "--queue", queue, token=None).returncode == 0
        args = ("run", queue, "--to", dest, "--api-url", served.api_url, "--until-empty", "--idle", 0)
        assert bulkfetch(*args).returncode == 3
        forget = ("queue", "forget", "--queue", queue, "--accept", dest)
        assert bulkfetch(*forget, "x-1", token=None).returncode == 2
        assert bulkfetch(*forget, "x-1", "y-1", "--accept-reason", "why", token=None).returncode == 3
        assert set(dead_letters(queue)) == {"x-2"}
        assert (status(dest)["unresolved"][0]["examples"], status(dest)["accepted"]["invoices"]) == (["x-2"], 1)
        assert bulkfetch(*forget, "--all", "--accept-reason", "why", token=None).returncode == 0
        assert stats(queue) == {"waiting": 0, "leased": 0, "dead": 0}
        assert status(dest)["exit_code"] == 0
        assert bulkfetch(*args).returncode == 0


def test_a_gap_in_a_bucket(seaweed, tmp_path):
    """Accepted on one machine, heeded by a run on another; each row is in the bucket once, with its summary."""
    bucket = seaweed.bucket()
    dest = f"s3://{bucket}/{PREFIX}"
    one, two = machine(seaweed, tmp_path / "one"), machine(seaweed, tmp_path / "two")
    with sandbox(invoices=2) as served:
        args = ("run", write_ids(tmp_path / "ids.txt", [*ids_of(served), "x-1"]), "--to", dest)
        args += ("--api-url", served.api_url)
        assert bulkfetch(*args, **one).returncode == 3
        done = bulkfetch("accept", dest, "x-1", "--reason", "why", token=None, **two)
        assert done.returncode == 0, done.stderr
        found, summaries = manifests(seaweed, bucket)
        assert [row.message for row in found if row.reason == "accepted"] == ["why"]
        assert sorted(summary["kind"] for summary in summaries.values()) == ["accept", "run"]
        assert bulkfetch(*args, **one).returncode == 0
        assert status(dest, **two)["exit_code"] == 0
        assert bulkfetch("accept", dest, "x-1", "--withdraw", token=None, **one).returncode == 0
        assert bulkfetch(*args, **two).returncode == 3
