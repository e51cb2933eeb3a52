"""Runs: names that sort, summaries that are sealed, a chain in which every change shows."""

import hashlib
import shutil
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import ExitCode, FatalError, UsageError
from bulkfetch.manifest import encode_rows, list_runs, new_run_id, read_summary, unfinished_runs, verify_chain
from bulkfetch.manifest.chain import write_summary
from bulkfetch.manifest.open_run import must_adopt
from bulkfetch.manifest.runs import started_at
from bulkfetch.models import Counts, Outcome, Row, RunResult, utc_iso

RUNS = ["20250101T000000Z-000001", "20250102T000000Z-000002", "20250103T000000Z-000003"]


def begin(root, run):
    """A manifest of two rows, as a run that died would leave it; returns its bytes."""
    for name in ("manifests", ".bulkfetch"):
        (root / name).mkdir(exist_ok=True)
    row = Row(run=run, invoice_id="INV-1", outcome=Outcome.FAILED, started_at="", finished_at="")
    data = encode_rows([row, row])
    (root / "manifests" / f"{run}.jsonl").write_bytes(data)
    return data


def finish(root, run, *, complete=True, seconds=60, source="ids.txt"):
    data = begin(root, run)
    ended = datetime.fromisoformat(started_at(run)) + timedelta(seconds=seconds)
    return write_summary(
        root,
        run,
        RunResult(
            exit_code=0, complete=complete, stopped_by=None, started_at=started_at(run),
            finished_at=utc_iso(ended), seconds=seconds,
            counts=Counts(read=2, failed=2), reasons={}, bytes_stored=0, requests={}, source=source,
            input_sha256=None, input_bytes=None, destination="dest", versions={},
        ),
        manifest=f"{run}.jsonl", rows=2, sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    for run in RUNS:
        finish(root, run)
    return root


def test_a_run_id_is_utc_and_random():
    """A run ID tells the second in UTC, whatever the clock's zone, and two of one second differ."""
    moment = datetime(2025, 1, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=2)))
    ids = {new_run_id(moment) for _ in range(20)}
    assert len(ids) > 1
    assert all(run.startswith("20250131T215959Z-") for run in ids)


@given(st.integers(-100_000, 100_000))
def test_a_run_id_sorts_behind_the_last_one(seconds):
    """However the clock was set in between, the later run sorts later."""
    moment = datetime(2025, 1, 31, tzinfo=UTC)
    last = new_run_id(moment)
    assert new_run_id(moment + timedelta(seconds=seconds), after=last) > last


def test_an_intact_chain_has_no_problems(chain):
    """Three runs in order, sealed one behind the other, pass."""
    assert verify_chain(chain) == []
    assert [run.id for run in list_runs(chain)] == RUNS
    assert unfinished_runs(chain) == []


@given(st.data())
def test_any_flipped_byte_is_found(chain, data):
    """One changed byte anywhere in a manifest or a summary, the newest included, is a problem."""
    path = data.draw(st.sampled_from(sorted((chain / "manifests").iterdir())))
    good = path.read_bytes()
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bad)
    try:
        problems = [problem.file for problem in verify_chain(chain)]
    except UsageError as newer:
        assert "upgrade" in str(newer)
    else:
        assert f"manifests/{path.name}" in problems
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", [f"{RUNS[0]}.json", f"{RUNS[1]}.json", *(f"{run}.jsonl" for run in RUNS)])
def test_a_lost_file_is_found(tmp_path, name):
    """A summary taken out of the chain, and any finished run's manifest, is missed."""
    for run in RUNS:
        finish(tmp_path, run)
    (tmp_path / "manifests" / name).unlink()
    assert [problem.file for problem in verify_chain(tmp_path)] == [f"manifests/{name}"]


def test_a_second_beginning_is_found(tmp_path):
    """A summary of somebody else's, sealed in itself but chained to nothing, makes a fork."""
    finish(tmp_path, "20250105T000000Z-000005")
    other = tmp_path / "other"
    other.mkdir()
    finish(other, RUNS[0])
    for path in (other / "manifests").iterdir():
        path.rename(tmp_path / "manifests" / path.name)
    assert any("forks" in problem.message for problem in verify_chain(tmp_path))


def side_by_side(root, run, *others):
    """Runs that ended without knowing of each other: each is chained to what was there before all of them."""
    for index, name in enumerate((run, *others)):
        beside = root / f"worker-{index}"
        shutil.copytree(root / "manifests", beside / "manifests")
        finish(beside, name, seconds=3600)
    for index in range(1 + len(others)):
        for path in (root / f"worker-{index}" / "manifests").iterdir():
            path.replace(root / "manifests" / path.name)
        shutil.rmtree(root / f"worker-{index}")


def test_runs_at_the_same_time_are_no_fork_and_all_are_sealed_by_the_next(tmp_path):
    """Workers that could not know of each other's end follow the same summary; the next run seals them all, so that
    each is missed afterwards."""
    finish(tmp_path, RUNS[0])
    workers = ["20250102T000000Z-00000a", "20250102T000000Z-00000b", "20250102T000007Z-00000c"]
    side_by_side(tmp_path, *workers)
    assert verify_chain(tmp_path) == []
    sealed = finish(tmp_path, RUNS[2])
    assert {sealed.previous, *sealed.beside} == {f"{run}.json" for run in workers}
    assert verify_chain(tmp_path) == []
    for run in workers:
        path = tmp_path / "manifests" / f"{run}.json"
        data = path.read_bytes()
        path.unlink()
        assert [problem.file for problem in verify_chain(tmp_path)] == [f"manifests/{path.name}"]
        path.write_bytes(data)


def test_runs_one_after_the_other_may_not_follow_the_same_summary(tmp_path):
    """A run that began long after another's end and does not know of it is a fork."""
    finish(tmp_path, RUNS[0])
    side_by_side(tmp_path, "20250102T000000Z-00000a", "20250102T010200Z-00000b")
    assert any("forks" in problem.message for problem in verify_chain(tmp_path))


def test_runs_that_end_out_of_order_still_make_one_chain(tmp_path):
    """A run that began earlier and ended later is chained behind the one that ended before it."""
    written = [finish(tmp_path, RUNS[index]) for index in (1, 0, 2)]
    assert [each.previous for each in written] == [None, f"{RUNS[1]}.json", f"{RUNS[0]}.json"]
    assert verify_chain(tmp_path) == []


def test_a_damaged_summary_does_not_keep_a_run_from_ending(tmp_path):
    """With an older summary damaged a new one is written all the same, and the damage is still found."""
    finish(tmp_path, RUNS[0])
    (tmp_path / "manifests" / f"{RUNS[0]}.json").write_bytes(b"{}")
    finish(tmp_path, RUNS[1])
    assert [problem.file for problem in verify_chain(tmp_path)] == [f"manifests/{RUNS[0]}.json"]


def test_a_summary_by_a_newer_version_asks_for_an_upgrade(tmp_path):
    """A higher version is exit 2 with the word what to do; it is not called damage."""
    path = tmp_path / "x.json"
    path.write_bytes(b'{"v": 2, "unknown": []}')
    with pytest.raises(UsageError, match="upgrade") as refused:
        read_summary(path)
    assert refused.value.exit_code == ExitCode.USAGE


def test_what_is_no_summary_is_damage(tmp_path):
    """Bytes that are sealed but no summary are an error that names the file."""
    (tmp_path / "x.json").write_bytes(b"[]")
    with pytest.raises(FatalError, match=r"x\.json"):
        read_summary(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("history", "adopting"),
    [
        ([], False),
        (["died"], True),
        (["complete"], False),
        (["complete", "stopped"], False),
        (["died", "complete"], False),
        (["died", "stopped"], True),
        (["complete", "died"], True),
        (["complete", "damaged"], True),
    ],
)
def test_when_objects_without_a_row_are_looked_for(tmp_path, history, adopting):
    """Only a run that died after the last complete one makes the next run look."""
    for run, end in zip(RUNS, history, strict=False):
        if end == "died":
            begin(tmp_path, run)
        else:
            finish(tmp_path, run, complete=end != "stopped")
        if end == "damaged":
            (tmp_path / "manifests" / f"{run}.json").write_bytes(b"{")
    assert must_adopt(tmp_path) == adopting


def test_the_end_of_a_queues_worker_settles_nothing_of_another_that_died(tmp_path):
    """Objects without a row are looked for until a run that had the archive for itself was complete."""
    begin(tmp_path, RUNS[0])
    finish(tmp_path, RUNS[1], source="nats://localhost:4222/invoices")
    assert must_adopt(tmp_path)
    finish(tmp_path, RUNS[2])
    assert not must_adopt(tmp_path)


def test_foreign_files_are_looked_for(tmp_path):
    """A directory that somebody else filled before the first run is searched; an empty or missing one is not."""
    (tmp_path / ".bulkfetch").mkdir()
    assert not must_adopt(tmp_path)
    assert not must_adopt(tmp_path / "missing")
    (tmp_path / "INV-1.pdf").touch()
    assert must_adopt(tmp_path)


def test_other_files_are_no_runs(tmp_path):
    """Only names of run IDs are runs: what else lies beside them is left alone."""
    begin(tmp_path, RUNS[0])
    for name in ("notes.json", f"{RUNS[1]}.jsonl.bak", "README"):
        (tmp_path / "manifests" / name).touch()
    assert [run.id for run in list_runs(tmp_path)] == RUNS[:1]
