"""Summaries that are sealed, and a chain in which every change shows."""

import hashlib
import shutil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import row
from support.runs import RUNS, begin, finish

from bulkfetch.errors import ExitCode, FatalError, UsageError
from bulkfetch.manifest import encode_rows, list_runs, read_summary, unfinished_runs, verify_chain
from bulkfetch.manifest.chain import head_of
from bulkfetch.manifest.chain_check import check_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    for run in RUNS:
        finish(root, run)
    return root


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


def finished(invoice_id, moment):
    return msgspec.structs.replace(row(invoice_id), finished_at=moment)


def test_the_rows_of_a_run_that_died_are_sealed_by_the_next(tmp_path):
    """A run without a summary is sealed once by the run after it: each changed, lost and added byte of what it had
    written shows. What it writes later, for it may be alive, does not."""
    data = begin(tmp_path, RUNS[0])
    manifest = tmp_path / "manifests" / f"{RUNS[0]}.jsonl"
    sealed = finish(tmp_path, RUNS[1])
    assert [*sealed.unfinished] == [RUNS[0]]
    assert finish(tmp_path, RUNS[2]).unfinished == {}
    assert verify_chain(tmp_path) == []
    for changed in (data[:-1], data[: len(data) // 2], data[:40] + b"!" + data[41:], b"\n" + data):
        manifest.write_bytes(changed)
        assert [problem.file for problem in verify_chain(tmp_path)] == [f"manifests/{RUNS[0]}.jsonl"]
    late = encode_rows([finished("late", "2025-01-04T00:00:00.000Z")])
    manifest.write_bytes(data + late + b'{"torn')
    assert verify_chain(tmp_path) == []
    assert check_chain(tmp_path).unsealed == [RUNS[0]]
    manifest.unlink()
    assert [problem.file for problem in verify_chain(tmp_path)] == [f"manifests/{RUNS[0]}.jsonl"]


def test_what_grows_after_it_was_sealed_is_sealed_again(tmp_path):
    """The rows that a run without a summary has by now are sealed by each later run, up to where they end."""
    data = begin(tmp_path, RUNS[0])
    finish(tmp_path, RUNS[1])
    more = encode_rows([finished("late", "2025-01-02T12:00:00.000Z")])
    (tmp_path / "manifests" / f"{RUNS[0]}.jsonl").write_bytes(data + more)
    assert finish(tmp_path, RUNS[2]).unfinished[RUNS[0]].bytes == len(data + more)
    assert verify_chain(tmp_path) == []


def test_rows_smuggled_in_behind_a_seal_are_found(tmp_path):
    """A manifest without a summary, or more rows in one, whose rows are older than a later run, which did not seal
    them, was not there when that run ended."""
    data = begin(tmp_path, RUNS[0])
    finish(tmp_path, RUNS[1])
    old = encode_rows([finished("old", "2025-01-01T00:00:00.000Z")])
    (tmp_path / "manifests" / f"{RUNS[0]}.jsonl").write_bytes(data + old)
    smuggled = "20250101T120000Z-00000f"
    (tmp_path / "manifests" / f"{smuggled}.jsonl").write_bytes(old)
    assert [problem.file for problem in verify_chain(tmp_path)] == [
        f"manifests/{RUNS[0]}.jsonl", f"manifests/{smuggled}.jsonl",
    ]  # fmt: skip


def test_the_head_is_the_digest_of_the_newest_summary(tmp_path):
    """What a run tells as its head is what `sha256sum` says of its summary; no other summary seals it."""
    finish(tmp_path, RUNS[0])
    summary = finish(tmp_path, RUNS[1])
    data = (tmp_path / "manifests" / f"{RUNS[1]}.json").read_bytes()
    assert head_of(summary) == hashlib.sha256(data).hexdigest()
    assert check_chain(tmp_path).heads() == [f"{RUNS[1]}.json"]
