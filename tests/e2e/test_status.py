"""`bulkfetch status` from the outside, over a directory and a bucket."""

import json
import signal

from support.bucket_archive import PREFIX, machine
from support.program import bulkfetch, ids_of, rows, sandbox, started, summary, until, write_ids
from support.runs import accept
from support.schemas import SCHEMAS, problems

from bulkfetch.app.run_history import PastRun, RunAtWork
from bulkfetch.app.status import Status, Verification
from bulkfetch.manifest.overview import AcceptedGaps, Gap, RejectedRows, UnresolvedReason
from bulkfetch.models import ACCEPT, RUN


def status(dest, *args, **environ):
    """What `status` prints as JSON, once it is known to fit its schema, and its exit code."""
    done = bulkfetch("status", dest, "--json", *args, token=None, **environ)
    assert done.returncode in (0, 3, 4, 5, 6), done.stderr
    told = json.loads(done.stdout)
    assert problems("status", told) == []
    assert told["exit_code"] == done.returncode
    return told


def tree(root):
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_an_archive_that_is_not_there_is_told(tmp_path):
    """Neither a missing directory nor one without a manifest is an archive: exit code 2, and nothing is made."""
    done = bulkfetch("status", tmp_path / "archive", token=None)
    assert done.returncode == 2
    assert "there is no archive in" in done.stderr
    assert bulkfetch("status", tmp_path, token=None).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_the_morning_in_one_screen(tmp_path):
    """The last run and its counts, what is unresolved by reason with IDs, and rejected rows; no trace is left."""
    with sandbox(invoices=10) as served:
        source, dest = write_ids(tmp_path / "ids.txt", [*ids_of(served), "nobodys", "a b"]), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url)
        assert bulkfetch(*args).returncode == 3
        before = tree(tmp_path)
        told = status(dest)
        assert tree(tmp_path) == before
        write_ids(source, ids_of(served))
    assert (told["exit_code"], told["stored"], told["verification"]) == (3, 10, None)
    assert told["last_run"]["counts"] == {"read": 12, "stored": 10, "skipped": 0, "failed": 1, "rejected": 1}
    assert told["last_run"] == told["runs"][0]
    (reason,) = told["unresolved"]
    assert (reason["reason"], reason["invoices"], reason["examples"]) == ("not_found", 1, ["nobodys"])
    assert reason["since"] == next(row.finished_at for row in rows(dest) if row.invoice_id == "nobodys")
    (rejected,) = told["rejected"]
    assert (rejected["source"], rejected["reason"], rejected["rows"]) == (str(source), "invalid_id", 1)
    text = bulkfetch("status", dest, token=None).stdout
    for word in ("not complete", "not_found", "nobodys", "invalid_id", "bulkfetch retry"):
        assert word in text
    assert "\x1b" not in text


def test_what_time_may_mend_is_told_apart(tmp_path):
    """4 while something unresolved may be mended by a retry, as after a run; 0 when nothing is unresolved."""
    with sandbox(invoices=3, faults={"errors": 1.0}) as served:
        args = (write_ids(tmp_path / "ids.txt", ids_of(served)), "--to", tmp_path / "archive", "--attempts", 1)
        assert bulkfetch("run", *args, "--api-url", served.api_url).returncode == 4
    assert status(tmp_path / "archive")["exit_code"] == 4
    with sandbox(invoices=3) as served:
        assert bulkfetch("run", *args, "--api-url", served.api_url).returncode == 0
    assert status(tmp_path / "archive")["exit_code"] == 0


def test_a_run_at_work_is_shown_and_changes_no_verdict(tmp_path):
    """While a run is at work: its source, estimate, host and rows, and the exit code of what was before. Killed, it is
    a run that died, and the newest run stopped early (5), until the same command has ended."""
    with sandbox(invoices=400, faults={"latency": 0.1}) as served:
        ids, dest = ids_of(served), tmp_path / "archive"
        first = write_ids(tmp_path / "first.txt", ids[:5])
        assert bulkfetch("run", first, "--to", dest, "--api-url", served.api_url).returncode == 0
        args = ("run", write_ids(tmp_path / "ids.txt", ids), "--to", dest, "--api-url", served.api_url, "--workers", 2)
        with started(*args) as process:
            until(lambda: len(list((dest / ".bulkfetch" / "runs").glob("*.json"))) == 1, process)
            until(lambda: status(dest)["at_work"][0]["estimate"], process)
            told = status(dest)
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        (at_work,) = told["at_work"]
        assert (at_work["source"], at_work["pid"], at_work["silent_since"]) == (
            str(tmp_path / "ids.txt"),
            process.pid,
            None,
        )
        assert 380 <= at_work["estimate"] <= 420
        assert 0 < at_work["rows"] < 400
        assert (told["exit_code"], told["last_run"]["source"]) == (0, str(first))
        died = status(dest)
        assert (died["exit_code"], died["at_work"]) == (5, [])
        assert (died["last_run"]["exit_code"], died["last_run"]["source"]) == (None, str(tmp_path / "ids.txt"))
        assert status(dest, "--source", first)["exit_code"] == 0
        assert bulkfetch(*args[:-1], 32).returncode == 0
    assert status(dest)["exit_code"] == 0
    assert summary(dest).counts.read == 400


def test_a_run_that_stopped_early_is_told_until_one_like_it_has_ended(tmp_path):
    """5 after a run that stopped, also if a retry came after it: it does not read what the other left unread."""
    dest, source = tmp_path / "archive", tmp_path / "ids.txt"
    with sandbox(invoices=30) as served:
        write_ids(source, ["nobodys", *ids_of(served)])
        args = ("run", source, "--to", dest, "--api-url", served.api_url)
        assert bulkfetch(*args, "--limit", 5, "--workers", 1).returncode == 5
        told = status(dest)
        assert (told["exit_code"], told["last_run"]["exit_code"]) == (5, 5)
        assert told["last_run"]["stopped_by"]
        assert bulkfetch("retry", dest, "--api-url", served.api_url).returncode == 3
        assert status(dest)["exit_code"] == 5
        assert bulkfetch(*args).returncode == 3
    assert status(dest)["exit_code"] == 3


def test_a_list_that_was_not_the_one_that_is_wanted_is_not_complete(tmp_path):
    """A run whose list had too few rows leaves nothing unresolved, and yet no status of 0."""
    with sandbox(invoices=5) as served:
        args = (write_ids(tmp_path / "ids.txt", ids_of(served)), "--to", tmp_path / "archive", "--expect", 6)
        assert bulkfetch("run", *args, "--api-url", served.api_url).returncode == 3
    assert status(tmp_path / "archive")["exit_code"] == 3


def test_one_source_of_several(tmp_path):
    """--source narrows the last run, and what is unresolved, to the runs of one list, also after a retry of it."""
    dest = tmp_path / "archive"
    with sandbox(invoices=5) as served:
        api = ("--to", dest, "--api-url", served.api_url)
        good, bad = write_ids(tmp_path / "good.txt", ids_of(served)), write_ids(tmp_path / "bad.txt", ["x-1", "x-2"])
        assert bulkfetch("run", bad, *api).returncode == 3
        assert bulkfetch("run", good, *api).returncode == 0
        assert bulkfetch("retry", dest, *api[2:]).returncode == 3
    assert (status(dest)["exit_code"], status(dest)["last_run"]["source"]) == (3, "retry")
    of_good, of_bad = status(dest, "--source", good), status(dest, "--source", bad)
    assert (of_good["exit_code"], of_good["unresolved"], len(of_good["runs"])) == (0, [], 1)
    assert (of_bad["exit_code"], of_bad["unresolved"][0]["invoices"]) == (3, 2)
    unknown = bulkfetch("status", dest, "--source", "nope", token=None)
    assert unknown.returncode == 2
    assert str(good) in unknown.stderr


def test_damage_that_is_not_mended_comes_first(tmp_path):
    """6 while the last verification's record says that something is not mended; a record that is none is told."""
    with sandbox(invoices=2) as served:
        ids, dest = write_ids(tmp_path / "ids.txt", [*ids_of(served), "nobodys"]), tmp_path / "archive"
        assert bulkfetch("run", ids, "--to", dest, "--api-url", served.api_url).returncode == 3
    record = {
        "run_at": "2026-01-02T03:04:05.000Z",
        "kind": "full",
        "checked": 2,
        "missing": 1,
        "damaged": 0,
        "extra": 0,
    }
    file = dest / ".bulkfetch" / "verification.json"
    file.write_text(json.dumps({**record, "unmended": 1}))
    told = status(dest)
    assert (told["exit_code"], told["verification"]["missing"]) == (6, 1)
    assert "1 missing" in bulkfetch("status", dest, token=None).stdout
    file.write_text(json.dumps({**record, "unmended": 0}))
    assert status(dest)["exit_code"] == 3
    file.write_text("{")
    assert bulkfetch("status", dest, token=None).returncode == 5


def test_accepted_gaps_are_named(tmp_path):
    """A gap is no part of what is unresolved: its ID, the reason and the time are shown."""
    with sandbox(invoices=2) as served:
        ids, dest = write_ids(tmp_path / "ids.txt", [*ids_of(served), "nobodys"]), tmp_path / "archive"
        assert bulkfetch("run", ids, "--to", dest, "--api-url", served.api_url).returncode == 3
    accept(dest, ["nobodys"], "cancelled")
    told = status(dest)
    assert (told["exit_code"], told["unresolved"], told["accepted"]["invoices"]) == (0, [], 1)
    assert told["accepted"]["examples"][0]["reason"] == "cancelled"
    assert told["last_run"]["counts"]["failed"] == 1
    assert "cancelled" in bulkfetch("status", dest, token=None).stdout


def test_the_status_of_a_bucket(seaweed, tmp_path):
    """The same of a bucket from a machine that never ran there; a run at work elsewhere has left its note as an
    object."""
    dest = f"s3://{seaweed.bucket()}/{PREFIX}"
    here, there = machine(seaweed, tmp_path / "here"), machine(seaweed, tmp_path / "there")
    with sandbox(invoices=200, faults={"latency": 0.1}) as served:
        ids = ids_of(served)
        assert bulkfetch("status", dest, token=None, **there).returncode == 2
        first = write_ids(tmp_path / "first.txt", [*ids[:5], "nobodys"])
        api = ("--to", dest, "--api-url", served.api_url)
        assert bulkfetch("run", first, *api, **here).returncode == 3
        with started("run", write_ids(tmp_path / "ids.txt", ids), *api, "--workers", 2, **here) as process:
            until(lambda: any(run["source"] for run in status(dest, **there)["at_work"]), process)
            told = status(dest, **there)
            assert process.poll() is None
        (at_work,) = told["at_work"]
        assert at_work["source"] == str(tmp_path / "ids.txt")
        assert 180 <= at_work["estimate"] <= 220
        assert not at_work["may_be_dead"]
        assert (told["exit_code"], told["unresolved"][0]["examples"]) == (3, ["nobodys"])
        assert bulkfetch("run", tmp_path / "ids.txt", *api, **here).returncode == 0
    told = status(dest, **there)
    assert (told["exit_code"], told["stored"], told["last_run"]["exit_code"]) == (3, 200, 0)
    # The run that was killed has no summary: nothing tells it from one that is at work and silent.
    assert len(told["at_work"]) == 1


def test_the_schema_has_the_members_of_the_code():
    """A member that is new in the code, or gone from it, is so in docs/schema as well."""
    schema = SCHEMAS["status"]
    assert list(schema["properties"]) == list(Status.__struct_fields__)
    assert list(schema["properties"]["accepted"]["properties"]) == list(AcceptedGaps.__struct_fields__)
    for name, struct in {
        "unresolved": UnresolvedReason,
        "rejected": RejectedRows,
        "gap": Gap,
        "at_work": RunAtWork,
        "past_run": PastRun,
        "verification": Verification,
    }.items():
        assert list(schema["$defs"][name]["properties"]) == list(struct.__struct_fields__), name
    assert SCHEMAS["summary"]["properties"]["kind"]["enum"] == [RUN, ACCEPT]
