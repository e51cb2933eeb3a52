"""A nightly job beside a backfill on one archive, and whoever has to wait for another run."""

import time
from collections import Counter

import pytest
from support import bucket_archive
from support.bucket_archive import PREFIX, machine
from support.program import all_rows, assert_sound, bulkfetch, ids_of, objects, sandbox, started, until, write_ids
from support.queues import push

from bulkfetch.manifest import list_runs, read_summary, verify_chain


@pytest.fixture
def served():
    with sandbox(invoices=300, size=2000, faults={"latency": 0.05}) as running:
        yield running


def lists(tmp_path, served):
    """The backfill's list of all, and the nightly's of some of them, in another order."""
    ids = ids_of(served)
    return write_ids(tmp_path / "all.txt", ids), write_ids(tmp_path / "night.txt", ids[:120][::-1])


def reconciled(rows, summaries):
    """Every invoice is stored by one row, and every other row says that it is stored already; both accounts add up."""
    stored = Counter(row.invoice_id for row in rows if row.outcome == "stored")
    assert set(stored.values()) == {1}
    assert {(row.outcome, row.reason) for row in rows} <= {
        ("stored", None), ("stored", "adopted"), ("skipped", "already_stored")
    }  # fmt: skip
    assert sum(summary.counts.read for summary in summaries) == len(rows)
    for summary in summaries:
        assert summary.counts.balanced()
        assert (summary.exit_code, summary.shared) == (0, True)
    return stored


def test_a_nightly_beside_a_backfill(tmp_path, served):
    """Both complete, each with a manifest of its own, and what both want is stored once."""
    backfill, nightly = lists(tmp_path, served)
    dest = tmp_path / "archive"
    more = ("--to", dest, "--api-url", served.api_url, "--share", "--workers", 8)
    with started("run", backfill, *more) as process:
        until(lambda: served.stats.downloads > 10, process)
        done = bulkfetch("run", nightly, *more)
        assert done.returncode == 0, done.stderr
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    rows, runs = all_rows(dest), list_runs(dest)
    assert len(runs) == 2
    stored = reconciled(rows, [read_summary(run.summary) for run in runs])
    assert (len(rows), len(stored)) == (420, 300)
    assert_sound(dest)
    assert verify_chain(dest) == []
    assert bulkfetch("run", backfill, "--to", dest, "--api-url", served.api_url).returncode == 0
    assert len(objects(dest)) == 300


@pytest.mark.parametrize("machines", [1, 2])
def test_a_nightly_beside_a_backfill_in_a_bucket(seaweed, tmp_path, served, machines):
    """The same in a bucket, from one machine or from two."""
    backfill, nightly = lists(tmp_path, served)
    bucket = seaweed.bucket()
    more = ("--to", f"s3://{bucket}/{PREFIX}", "--api-url", served.api_url, "--share", "--workers", 8)
    with started("run", backfill, *more, **machine(seaweed, tmp_path / "1")) as process:
        until(lambda: served.stats.downloads > 10, process)
        done = bulkfetch("run", nightly, *more, **machine(seaweed, tmp_path / str(machines)))
        assert done.returncode == 0, done.stderr
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    rows, summaries = bucket_archive.manifests(seaweed, bucket)
    assert len(summaries) == 2
    for summary in summaries.values():
        counts = summary["counts"]
        assert (summary["exit_code"], summary["shared"]) == (0, True)
        assert counts["read"] == counts["stored"] + counts["skipped"]
    stored = Counter(row.invoice_id for row in rows if row.outcome == "stored")
    assert set(stored.values()) == {1}
    assert (len(rows), len(stored)) == (420, 300)
    assert len(bucket_archive.objects(seaweed, bucket)) == 300


@pytest.mark.parametrize(("first", "second"), [([], ["--share"]), (["--share"], [])], ids=["alone", "shared"])
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_sharing_takes_two(request, tmp_path, served, where, first, second):
    """Unless both runs share, the second one is refused, and the first one is not disturbed."""
    environ, to = {}, str(tmp_path / "archive")
    if where == "bucket":
        seaweed = request.getfixturevalue("seaweed")
        environ, to = machine(seaweed, tmp_path / "home"), f"s3://{seaweed.bucket()}/{PREFIX}"
    source = write_ids(tmp_path / "ids.txt", ids_of(served))
    args = ("run", source, "--to", to, "--api-url", served.api_url, "--workers", 2)
    with started(*args, *first, **environ) as process:
        until(lambda: served.stats.downloads > 4, process)
        refused = bulkfetch(*args, *second, constants={"manifest.lock._SHARING_WAIT": 0.1}, **environ)
        assert refused.returncode == 7, refused.stderr
        assert "another run holds this archive (run 2" in refused.stderr
        assert process.poll() is None


def test_whoever_waits_gets_the_archive(tmp_path, served):
    """--wait-lock waits for the other run to end, says so, and goes on; a signal ends the wait at once."""
    source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)[:60]), tmp_path / "archive"
    args = ("run", source, "--to", dest, "--api-url", served.api_url)
    with started(*args, "--workers", 1) as first:
        until(lambda: served.stats.downloads > 2, first)
        with started(*args, "--wait-lock", 60) as impatient, started(*args, "--wait-lock", 60) as patient:
            assert b"waiting up to 60 s: another run holds this archive" in impatient.stderr.readline()
            impatient.terminate()
            assert impatient.wait(5) == -15
            assert first.poll() is None
            _, err = patient.communicate(timeout=60)
            assert patient.returncode == 0, err
            assert first.wait(1) == 0
    assert served.stats.downloads == 60
    assert Counter(row.outcome for row in all_rows(dest)) == {"stored": 60, "skipped": 60}


def test_a_wait_that_was_too_short_ends_with_7(tmp_path, served):
    """After its seconds the waiting run is refused."""
    source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
    args = ("run", source, "--to", dest, "--api-url", served.api_url, "--workers", 1)
    with started(*args) as first:
        until(lambda: served.stats.downloads > 2, first)
        began = time.monotonic()
        assert bulkfetch(*args, "--wait-lock", 1).returncode == 7
        assert time.monotonic() - began > 1


def test_a_nightly_beside_the_workers_of_a_queue(nats, tmp_path, served):
    """What a list and a queue both hold is stored once, and the queue's number is not that of the list."""
    ids, dest, queue = ids_of(served), tmp_path / "archive", nats.queue()
    push(write_ids(tmp_path / "queued.txt", ids[:100]), queue)
    nightly = write_ids(tmp_path / "night.txt", ids[50:150])
    more = ("--to", dest, "--api-url", served.api_url, "--workers", 4)
    with started("run", nightly, *more, "--share") as process:
        until(lambda: served.stats.downloads > 5, process)
        worker = bulkfetch("run", queue, *more, "--until-empty", "--idle", "0", "--expect", 100)
        assert worker.returncode == 0, worker.stderr
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    stored = reconciled(all_rows(dest), [read_summary(run.summary) for run in list_runs(dest)])
    assert len(stored) == 150
    assert_sound(dest)
