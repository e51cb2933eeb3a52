"""The manifests of a bucket and their local copy: the bucket is the truth, and only what is new is read."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import anyio.to_thread
import pytest
from msgspec.structs import replace

from bulkfetch.errors import FatalError, PermanentError, Reason, TransientError
from bulkfetch.manifest import ManifestWriter, decode_row, verify_chain
from bulkfetch.models import Counts, ObjectMeta, Outcome, Row, RunResult

pytestmark = pytest.mark.anyio

STAMP = "2026-01-02T03:04:05.000Z"


class Bucket:
    """Keeps the contract of `interfaces.Objects` in memory, counts its reads, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.reads: list[str] = []
        self.listed: list[str] = []
        self.trouble = 0
        self.error: Exception = TransientError(Reason.STORE_ERROR, "busy")
        self.failed = threading.Event()
        self.lost_answers = 0

    def create(self, key: str, data: bytes) -> None:
        self._fail()
        if key in self.kept:
            raise FileExistsError(key)
        self.kept[key] = data
        if self.lost_answers:
            self.lost_answers -= 1
            raise TransientError(Reason.STORE_ERROR, "the answer was lost")

    def read(self, key: str) -> bytes:
        self._fail()
        self.reads.append(key)
        if key not in self.kept:
            raise FileNotFoundError(key)
        return self.kept[key]

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectMeta]:
        self._fail()
        found = self._below(prefix, after)
        self.listed += [meta.key for meta in found]
        return iter(found)

    def level(self, folder: str) -> tuple[Sequence[ObjectMeta], Sequence[str]]:
        self._fail()
        found = [(meta, meta.key.removeprefix(folder).split("/")) for meta in self._below(folder)]
        objects = [meta for meta, names in found if len(names) == 1]
        folders = dict.fromkeys(f"{folder}{names[0]}/" for _, names in found if len(names) > 1)
        self.listed += [*(meta.key for meta in objects), *folders]
        return objects, [*folders]

    def _below(self, prefix: str, after: str = "") -> Sequence[ObjectMeta]:
        kept = sorted(self.kept.items())
        return [ObjectMeta(key, len(data)) for key, data in kept if key.startswith(prefix) and key > after]

    def _fail(self) -> None:
        if self.trouble:
            self.trouble -= 1
            self.failed.set()
            raise self.error


def row(number: int) -> Row:
    return Row(
        run="r",
        invoice_id=f"id-{number}",
        outcome=Outcome.STORED,
        key=f"id-{number}.pdf",
        size=number,
        sha256="0" * 64,
        started_at=STAMP,
        finished_at=STAMP,
    )


def summary(rows: int) -> RunResult:
    return RunResult(
        exit_code=0,
        finished=True,
        complete=True,
        stopped_by=None,
        started_at=STAMP,
        finished_at=STAMP,
        seconds=0.0,
        counts=Counts(read=rows, stored=rows),
        reasons={},
        bytes_stored=0,
        requests={},
        source="ids.txt",
        input_sha256=None,
        input_bytes=None,
        destination="memory:///",
        versions={},
    )


Open = Callable[[Path], AbstractAsyncContextManager[ManifestWriter]]


@pytest.fixture(autouse=True)
def short_linger(monkeypatch):
    """Rows gather only for a moment: each append of these tests is alone and would wait in vain."""
    monkeypatch.setattr("bulkfetch.manifest.writer.LINGER", 0.001)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def opened(bucket: Bucket) -> Open:
    return lambda root: ManifestWriter.open(root, clock=lambda: datetime.now(UTC), objects=bucket)


async def test_another_machine_knows_what_is_stored(bucket, opened, tmp_path):
    """With nothing local, a run learns from the bucket's segments alone what earlier runs stored."""
    async with opened(tmp_path / "a") as first:
        await first.append([row(1), row(2)])
        await first.append([row(3)])
        await first.finish(summary(3))
    async with opened(tmp_path / "b") as second:
        stored = await second.history.stored(["id-1", "id-2", "id-3", "id-4"])

    assert sorted(stored) == ["id-1", "id-2", "id-3"]
    assert not second.adopting
    assert sorted(bucket.kept)[:4] == [
        f".bulkfetch/rows/{first.run}/0000000001.jsonl",
        f".bulkfetch/rows/{first.run}/0000000002.jsonl",
        f"manifests/{first.run}.json",
        f"manifests/{first.run}.rows-0000000001-0000000002.jsonl",
    ]


async def test_a_run_without_rows_is_whole(bucket, opened, tmp_path):
    """It puts nothing up but its summary, as a worker does that finds an empty queue, and nothing of it is missing."""
    async with opened(tmp_path / "a") as first:
        await first.finish(summary(0))
    assert [*bucket.kept] == [f"manifests/{first.run}.json"]
    async with opened(tmp_path / "b") as second:
        assert await anyio.to_thread.run_sync(verify_chain, tmp_path / "b") == []
        await second.append([row(1)])
        await second.finish(summary(1))
    for key in [key for key in bucket.kept if "jsonl" in key]:
        del bucket.kept[key]
    async with opened(tmp_path / "c"):
        (problem,) = await anyio.to_thread.run_sync(verify_chain, tmp_path / "c")
    assert problem.file == f"manifests/{second.run}.jsonl"


async def test_a_row_is_in_the_bucket_when_append_returns(bucket, opened, tmp_path):
    """`append` returns only once the segment that holds the row is an object in the bucket."""
    async with opened(tmp_path) as manifest:
        await manifest.append([row(1)])

        assert b"id-1" in bucket.kept[f".bulkfetch/rows/{manifest.run}/0000000001.jsonl"]


async def test_only_what_is_new_is_read(bucket, opened, tmp_path):
    """A machine that has a copy reads no segment twice."""
    for number in range(3):
        async with opened(tmp_path) as manifest:
            await manifest.append([row(number)])
            await manifest.finish(summary(1))
    assert bucket.reads == []

    async with opened(tmp_path / "other"):
        assert len(bucket.reads) == 6


async def test_a_copy_that_is_ahead_or_damaged_is_brought_back(bucket, opened, tmp_path):
    """What only the local copy holds, a torn end or rows that were never put up, gives way to the bucket's rows."""
    async with opened(tmp_path) as manifest:
        await manifest.append([row(1)])
        await manifest.append([row(2)])
        await manifest.finish(summary(2))
    path = tmp_path / "manifests" / f"{manifest.run}.jsonl"
    truth = path.read_bytes()
    for wrong in (truth + b'{"torn', truth[:-7], truth[: len(truth) // 2], b""):
        path.write_bytes(wrong)
        async with opened(tmp_path) as again:
            assert sorted(await again.history.stored(["id-1", "id-2"])) == ["id-1", "id-2"]
        assert path.read_bytes() == truth


async def test_a_run_that_the_bucket_does_not_know_is_forgotten(bucket, opened, tmp_path):
    """A manifest that is gone from the bucket is gone from the copy and from the ledger."""
    async with opened(tmp_path) as manifest:
        await manifest.append([row(1)])
        await manifest.finish(summary(1))
    bucket.kept.clear()
    async with opened(tmp_path) as again:
        assert not await again.history.stored(["id-1"])


async def test_a_missing_segment_is_damage(bucket, opened, tmp_path):
    """A hole in the numbers of a run's segments stops the run: rows may be missing."""
    async with opened(tmp_path / "a") as manifest:
        for number in range(3):
            await manifest.append([row(number)])
    del bucket.kept[f".bulkfetch/rows/{manifest.run}/0000000002.jsonl"]
    with pytest.raises(FatalError, match="segments are missing"):
        async with opened(tmp_path / "b"):
            pass


async def test_who_reads_the_manifests_alone_reads_each_row_once(bucket, opened, tmp_path, small_packs):
    """`manifests/*.jsonl` holds no row twice, and all of a run once it has its summary. The recipe in README.md adds
    the rows of runs without one: those at work, and those that died."""
    async with opened(tmp_path / "a") as ended:
        await appended(ended, range(8))
        await ended.finish(summary(8))
    async with opened(tmp_path / "a") as died:
        await appended(died, range(10, 15))
    async with opened(tmp_path / "a") as dead_at_once:
        await appended(dead_at_once, range(20, 21))
    packs = [key for key in bucket.kept if re.fullmatch(r"manifests/[^/]*\.jsonl", key)]
    lines = b"".join(bucket.kept[key] for key in packs).splitlines()
    assert sorted(map(told, lines)) == sorted(f"id-{number}" for number in [*range(8), *range(10, 13)])

    readme = Path(__file__).parents[3] / "README.md"
    (recipe,) = re.findall(r"```sh\n([^`]*awk[^`]*)```", await anyio.Path(readme).read_text())
    for key, data in bucket.kept.items():
        path = anyio.Path(tmp_path / "copy" / key)
        await path.parent.mkdir(parents=True, exist_ok=True)
        await path.write_bytes(data)
    script = "\n".join(line for line in recipe.splitlines() if not line.startswith("aws "))
    done = await anyio.run_process(["sh", "-euc", script], cwd=tmp_path / "copy")
    lines = (await anyio.Path(tmp_path / "copy" / "rows.jsonl").read_bytes()).splitlines()
    assert done.stderr == b""
    assert [told(line) for line in lines if ended.run.encode() in line] == [f"id-{number}" for number in range(8)]
    numbers = [*range(8), *range(10, 15), 20]
    assert sorted(map(told, lines)) == sorted(f"id-{number}" for number in numbers)


def told(line: bytes) -> str:
    return decode_row(line).invoice_id


@pytest.fixture
def small_packs(monkeypatch):
    """Three segments make a pack."""
    monkeypatch.setattr("bulkfetch.manifest.bucket_mirror.PACK_SEGMENTS", 3)


async def appended(manifest: ManifestWriter, numbers: Iterable[int]) -> None:
    """A segment for each."""
    for number in numbers:
        await manifest.append([replace(row(number), run=manifest.run)])


async def test_a_start_lists_packs_instead_of_segments(bucket, opened, tmp_path, small_packs):
    """However long a worker was at work: of a run that goes on, or died, only the last segments are listed; of one that
    ended, none."""
    async with opened(tmp_path / "a") as ended:
        await appended(ended, range(1, 9))
        await ended.finish(summary(8))
    async with opened(tmp_path / "a") as died:
        await appended(died, range(11, 19))
    bucket.listed.clear()
    bucket.reads.clear()
    async with opened(tmp_path / "b") as manifest:
        assert len(await manifest.history.stored([f"id-{number}" for number in range(20)])) == 16

    of_ended, of_died = f"manifests/{ended.run}", f"manifests/{died.run}"
    packs = [f"{of_ended}.rows-{first:010}-{last:010}.jsonl" for first, last in ((1, 3), (4, 6), (7, 8))]
    packs += [f"{of_died}.rows-{first:010}-{last:010}.jsonl" for first, last in ((1, 3), (4, 6))]
    loose = [f".bulkfetch/rows/{died.run}/{number:010}.jsonl" for number in (7, 8)]
    assert sorted(bucket.reads) == sorted([f"{of_ended}.json", *packs, *loose])
    folders = [f".bulkfetch/rows/{run}/" for run in (ended.run, died.run)]
    assert sorted(bucket.listed) == sorted([*bucket.reads, *folders])


async def test_a_pack_holds_what_its_segments_do(bucket, opened, tmp_path, monkeypatch):
    """Byte for byte; it is put when there are segments enough, or bytes."""
    monkeypatch.setattr("bulkfetch.manifest.bucket_mirror.PACK_BYTES", 1000)
    async with opened(tmp_path) as manifest:
        await appended(manifest, range(40))
        await manifest.finish(summary(40))
    packs = [data for key, data in sorted(bucket.kept.items()) if ".rows-" in key]
    segments = [data for key, data in sorted(bucket.kept.items()) if f"{manifest.run}/" in key]
    assert b"".join(packs) == b"".join(segments) == (tmp_path / "manifests" / f"{manifest.run}.jsonl").read_bytes()
    assert all(1000 <= len(data) < 1000 + max(map(len, segments)) for data in packs[:-1])
    assert len(segments) == 40
    assert len(packs) > 5


async def test_a_copy_goes_on_from_the_middle_of_a_pack(bucket, opened, tmp_path, small_packs):
    """What one machine has seen as segments, and finds in a pack later, is taken in once."""
    async with opened(tmp_path / "a") as manifest:
        await appended(manifest, range(1, 6))
        async with opened(tmp_path / "b"):
            pass
        await appended(manifest, range(6, 12))
        async with opened(tmp_path / "b") as again:
            assert len(await again.history.stored([f"id-{number}" for number in range(20)])) == 11
        await manifest.finish(summary(11))
    async with opened(tmp_path / "b"):
        name = f"manifests/{manifest.run}.jsonl"
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
        assert await anyio.to_thread.run_sync(verify_chain, tmp_path / "b") == []


async def test_the_segments_of_a_run_that_ended_may_go(bucket, opened, tmp_path, small_packs):
    """Its packs hold all of it."""
    async with opened(tmp_path / "a") as manifest:
        await appended(manifest, range(8))
        await manifest.finish(summary(8))
    for key in [key for key in bucket.kept if f"{manifest.run}/" in key]:
        del bucket.kept[key]
    async with opened(tmp_path / "b") as again:
        assert len(await again.history.stored([f"id-{number}" for number in range(8)])) == 8


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("harm", ["gone", "cut", "zeros"])
async def test_a_pack_that_is_damaged_or_gone_is_made_up_for(bucket, opened, tmp_path, small_packs, number, harm):
    """Its rows come from the segments, as often as a machine reads it; where these are damaged as well the object is
    named, with a way out."""
    async with opened(tmp_path / "a") as manifest:
        await appended(manifest, range(8))
        await manifest.finish(summary(8))
    pack = sorted(key for key in bucket.kept if ".rows-" in key)[number]
    data = bucket.kept.pop(pack)
    if harm != "gone":
        bucket.kept[pack] = data[:-9] if harm == "cut" else bytes(len(data))
    for machine in ("b", "b", "c"):
        async with opened(tmp_path / machine) as again:
            assert len(await again.history.stored([f"id-{number}" for number in range(8)])) == 8
        rows = (tmp_path / machine / "manifests" / f"{manifest.run}.jsonl").read_bytes()
        assert rows == (tmp_path / "a" / "manifests" / f"{manifest.run}.jsonl").read_bytes()
    segment = next(key for key in bucket.kept if key.endswith(f"{3 * number + 1:010}.jsonl") and ".rows-" not in key)
    del bucket.kept[segment]
    with pytest.raises(FatalError, match=f"{manifest.run}.*(gone|damaged).*backup"):
        async with opened(tmp_path / "d"):
            pass


async def test_a_start_without_a_copy_reads_many_runs_at_once(bucket, opened, tmp_path, monkeypatch):
    """Sixty nights, each with rows and a summary, take a few round trips and not a hundred in a row."""
    for number in range(60):
        async with opened(tmp_path / "a") as manifest:
            await manifest.append([row(number)])
            await manifest.finish(summary(1))
    read, most, at_once = bucket.read, 0, 0
    turns = threading.Lock()

    def slow(key: str) -> bytes:
        nonlocal most, at_once
        with turns:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with turns:
            at_once -= 1
        return read(key)

    monkeypatch.setattr(bucket, "read", slow)
    async with opened(tmp_path / "b") as again:
        assert len(await again.history.stored([f"id-{number}" for number in range(60)])) == 60
    assert most > 16
    assert await anyio.to_thread.run_sync(verify_chain, tmp_path / "b") == []


async def test_a_summary_is_listed_before_the_packs_that_were_put_before_it(bucket, opened, tmp_path, small_packs):
    """A list takes several requests: who sees the summary in an early one sees all packs in a later one."""
    async with opened(tmp_path) as manifest:
        await appended(manifest, range(8))
        await manifest.finish(summary(8))
    put = [key for key in bucket.kept if f"{manifest.run}/" not in key]
    assert len(put) == 4
    assert sorted(put)[0] == put[-1] == f"manifests/{manifest.run}.json"


async def test_passing_trouble_and_lost_answers_lose_nothing(bucket, opened, tmp_path):
    """A segment whose put failed, or succeeded without an answer, is there once."""
    async with opened(tmp_path) as manifest:
        bucket.trouble = 2
        await manifest.append([row(1)])
        bucket.lost_answers = 1
        await manifest.append([row(2)])
        await manifest.finish(summary(2))

    assert {key: data.count(b"\n") for key, data in bucket.kept.items() if key.endswith(".jsonl")} == {
        f".bulkfetch/rows/{manifest.run}/0000000001.jsonl": 1,
        f".bulkfetch/rows/{manifest.run}/0000000002.jsonl": 1,
        f"manifests/{manifest.run}.rows-0000000001-0000000002.jsonl": 2,
    }


async def test_a_run_that_died_makes_the_next_one_adopt(bucket, opened, tmp_path):
    """Segments without a summary, or objects without a manifest, make the next run look before it fetches."""
    async with opened(tmp_path / "a") as manifest:
        await manifest.append([row(1)])
    async with opened(tmp_path / "b") as again:
        assert again.adopting
    bucket.kept = {"somebody.pdf": b"%PDF-"}
    async with opened(tmp_path / "c") as foreign:
        assert foreign.adopting


async def test_the_chain_holds_in_the_copy(bucket, opened, tmp_path):
    """Summaries name and seal each other across machines, and a copy can be verified like an archive on disk."""
    for machine in ("a", "b", "c"):
        async with opened(tmp_path / machine) as manifest:
            await manifest.append([row(1)])
            written = await manifest.finish(summary(1))
    assert written.previous is not None
    assert await anyio.to_thread.run_sync(verify_chain, tmp_path / "c") == []


@pytest.mark.parametrize(
    "error",
    [
        TransientError(Reason.STORE_ERROR, "busy"),
        PermanentError(Reason.TOO_LARGE, "too large"),
        FatalError("access is denied"),
    ],
)
async def test_nothing_follows_a_segment_that_could_not_be_put(bucket, opened, tmp_path, monkeypatch, error):
    """Once a segment has failed for good the run has died, though the bucket is well again: it gets neither later rows
    nor a summary, and the next run looks for objects without a row."""
    monkeypatch.setattr("bulkfetch.manifest.bucket_mirror.RUNNING", 0.0)
    async with opened(tmp_path) as manifest:
        await manifest.append([row(1)])
        bucket.trouble, bucket.error = 1, error
        with pytest.raises(FatalError, match=str(error)):
            await manifest.append([row(2)])
        with pytest.raises(FatalError, match=str(error)):
            await manifest.append([row(3)])
        with pytest.raises(FatalError, match=str(error)):
            await manifest.finish(summary(1))
    assert list(bucket.kept) == [f".bulkfetch/rows/{manifest.run}/0000000001.jsonl"]
    assert not list((tmp_path / "manifests").glob("*.json"))
    async with opened(tmp_path) as again:
        assert again.adopting
        assert sorted(await again.history.stored(["id-1", "id-2", "id-3"])) == ["id-1"]


async def test_haste_ends_the_wait_for_a_bucket_in_trouble(bucket, opened, tmp_path, monkeypatch):
    """`stop_waiting` ends an append that waits for the bucket, and what comes after it."""
    monkeypatch.setattr("bulkfetch.manifest.bucket_mirror.RUNNING", 20.0)
    async with opened(tmp_path) as manifest:
        bucket.trouble = 1_000_000
        with anyio.fail_after(10.0):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_refused, manifest.append, [row(1)])
                await anyio.to_thread.run_sync(bucket.failed.wait)
                manifest.stop_waiting()
            await _refused(manifest.append, [row(2)])
            await _refused(manifest.finish, summary(0))
    assert bucket.kept == {}


async def test_a_run_has_more_patience_than_its_beginning(bucket, opened, tmp_path, monkeypatch):
    """Once it is under way, what others have recorded is waited for as long as its own rows are."""
    async with opened(tmp_path / "a") as first:
        await first.append([row(1)])
        monkeypatch.setattr("bulkfetch.manifest.bucket_mirror.OPENING", 0.0)
        async with opened(tmp_path / "b") as second:
            await first.append([row(2)])
            bucket.trouble = 2
            await second.history.refresh()
            assert sorted(await second.history.stored(["id-1", "id-2"])) == ["id-1", "id-2"]
        bucket.trouble = 1
        with pytest.raises(FatalError, match="busy"):
            async with opened(tmp_path / "c"):
                pass


async def test_haste_does_not_harm_what_the_bucket_takes(bucket, opened, tmp_path):
    """After `stop_waiting` rows and summary are still put, where that works at once."""
    async with opened(tmp_path) as manifest:
        manifest.stop_waiting()
        await manifest.append([row(1)])
        await manifest.finish(summary(1))
    assert f"manifests/{manifest.run}.json" in bucket.kept
    assert f".bulkfetch/rows/{manifest.run}/0000000001.jsonl" in bucket.kept


async def _refused(act, argument):
    with pytest.raises(FatalError, match="busy"):
        await act(argument)


@pytest.mark.parametrize("damaged", [".jsonl", ".json"])
async def test_a_copy_with_the_right_size_and_the_wrong_bytes_is_pulled_again(bucket, opened, tmp_path, damaged):
    """Rows or a summary that a power failure left partly as zeros come from the bucket, and the chain goes on whole."""
    for number in range(3):
        async with opened(tmp_path) as manifest:
            await manifest.append([row(number), row(10 + number)])
            if number < 2:
                await manifest.finish(summary(1))
    files = sorted((tmp_path / "manifests").iterdir())
    truth = [file.read_bytes() for file in files]
    assert len(truth) == 5
    for file, data in zip(files, truth, strict=True):
        if file.suffix == damaged:
            file.write_bytes(bytes(10) + data[10:])
    (tmp_path / ".bulkfetch" / "ledger.sqlite3").unlink()
    async with opened(tmp_path) as again:
        assert sorted(await again.history.stored(["id-0", "id-1", "id-2"])) == ["id-0", "id-1", "id-2"]
        await again.append([row(9)])
        await again.finish(summary(1))
    assert await anyio.to_thread.run_sync(verify_chain, tmp_path) == []
    assert [file.read_bytes() for file in files] == truth


async def test_a_copy_of_a_run_that_died_is_no_torn_end(bucket, opened, tmp_path):
    """Where a power failure left zeros at the end of a run without a summary, its rows are still known."""
    async with opened(tmp_path) as died:
        await died.append([row(1)])
        await died.append([row(2)])
    async with opened(tmp_path) as manifest:
        await manifest.finish(summary(0))
    path = tmp_path / "manifests" / f"{died.run}.jsonl"
    truth = path.read_bytes()
    path.write_bytes(truth[: len(truth) // 2] + bytes(len(truth) // 2))
    async with opened(tmp_path) as again:
        assert sorted(await again.history.stored(["id-1", "id-2"])) == ["id-1", "id-2"]
    assert path.read_bytes() == truth
    assert len(bucket.reads) == 1


async def test_damage_in_the_bucket_itself_stops_the_run(bucket, opened, tmp_path):
    """What is damaged in the bucket, and is there only so, is named with a way out."""
    async with opened(tmp_path) as manifest:
        await manifest.append([row(1)])
        await manifest.finish(summary(1))
    key = f"manifests/{manifest.run}.rows-0000000001-0000000001.jsonl"
    for damaged in [name for name in bucket.kept if manifest.run in name and name.endswith(".jsonl")]:
        bucket.kept[damaged] = bytes(len(bucket.kept[damaged]))
    with pytest.raises(FatalError, match=f"{key} in the bucket is damaged: bring it back"):
        async with opened(tmp_path / "other"):
            pass


async def test_a_ledger_that_cannot_be_written_costs_no_copy(bucket, opened, tmp_path):
    """What is wrong with this machine's disk is no reason to read the bucket anew."""
    async with opened(tmp_path) as manifest:
        await manifest.append([row(1)])
        await manifest.finish(summary(1))
    database = tmp_path / ".bulkfetch" / "ledger.sqlite3"
    database.unlink()
    database.mkdir()
    with pytest.raises(FatalError, match="ledger"):
        async with opened(tmp_path):
            pass
    assert bucket.reads == []
