"""An archive that the workers of one queue hold together: what each does alone, and what each sees of the others."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from bulkfetch.durable import write_all
from bulkfetch.errors import ArchiveLocked
from bulkfetch.manifest import ManifestWriter, verify_chain
from bulkfetch.manifest import lock as lock_module
from bulkfetch.models import Counts, Entry, Outcome, Row, RunResult, utc_iso

pytestmark = pytest.mark.anyio

QUEUE = "nats://127.0.0.1:4222/invoices"
MORNING = datetime(2025, 1, 31, tzinfo=UTC)


@asynccontextmanager
async def worker(root: Path, at: datetime = MORNING) -> AsyncIterator[ManifestWriter]:
    async with ManifestWriter.open(root, clock=lambda: at, shared=True) as manifest:
        yield manifest


def row(invoice_id: str, outcome: Outcome = Outcome.STORED, at: datetime = MORNING) -> Row:
    stored = {"key": f"{invoice_id}.pdf", "size": 7, "sha256": "ab" * 32} if outcome is Outcome.STORED else {}
    now = utc_iso(at)
    return Row(run="r", invoice_id=invoice_id, outcome=outcome, started_at=now, finished_at=now, **stored)


async def finish(
    manifest: ManifestWriter,
    rows: int,
    start: datetime,
    *,
    finished: bool = True,
    source: str = QUEUE,
    lasting: timedelta = timedelta(hours=1),
):
    """End the run, an hour after it began or when it is said to."""
    summary = RunResult(
        exit_code=0, finished=finished, complete=finished, stopped_by=None, started_at=utc_iso(start),
        finished_at=utc_iso(start + lasting), seconds=3600.0, counts=Counts(read=rows, stored=rows),
        reasons={}, bytes_stored=0, requests={}, source=source, input_sha256=None, input_bytes=None,
        destination="dest", versions={},
    )  # fmt: skip
    await manifest.finish(summary)


async def problems(root: Path):
    return await anyio.to_thread.run_sync(verify_chain, root)


async def test_workers_share_and_nobody_else_gets_in(tmp_path, monkeypatch):
    """Two workers hold the archive at a time; a run that wants it alone is refused, and so is a worker while one has
    it. Each worker has a manifest of its own."""
    monkeypatch.setattr(lock_module, "_SHARING_WAIT", 0.2)
    async with worker(tmp_path) as one, worker(tmp_path) as two:
        assert one.run != two.run
        await one.append([row("a")])
        await two.append([row("b")])
        with pytest.raises(ArchiveLocked):
            async with ManifestWriter.open(tmp_path, clock=lambda: MORNING):
                pass
    async with ManifestWriter.open(tmp_path, clock=lambda: MORNING) as alone:
        assert set(await alone.history.stored(["a", "b", "c"])) == {"a", "b"}
        with pytest.raises(ArchiveLocked):
            async with worker(tmp_path):
                pass


async def test_a_worker_sees_what_another_recorded_when_it_looks(tmp_path):
    """Rows of others are known after `refresh`, those of before the start at once, one's own always."""
    async with worker(tmp_path) as before:
        await before.append([row("old")])
        async with worker(tmp_path) as one, worker(tmp_path) as two:
            await two.append([row("mine")])
            await one.append([row("a")])
            assert set(await two.history.stored(["old", "mine", "a"])) == {"old", "mine"}
            await two.history.refresh()
            assert (await two.history.stored(["a"]))["a"] == Entry("a.pdf", 7, "ab" * 32)
            assert await two.history.owner("a.pdf") == "a"
            await one.append([row("b")])
            await two.append([row("c")])
            await two.history.refresh()
            assert set(await two.history.stored(["old", "mine", "a", "b", "c"])) == {"old", "mine", "a", "b", "c"}


async def test_a_manifest_that_is_being_written_is_not_cut(tmp_path):
    """A worker that starts leaves the torn end of a living one's manifest alone; when nobody else is there it cuts off
    what a dead one left."""
    async with worker(tmp_path) as living:
        await living.append([row("a")])
        path = tmp_path / "manifests" / f"{living.run}.jsonl"
        with path.open("ab") as torn:
            await anyio.to_thread.run_sync(write_all, torn.fileno(), b'{"v":1,"run":"half')
        whole = path.stat().st_size
        async with worker(tmp_path) as other:
            assert set(await other.history.stored(["a"])) == {"a"}
            assert path.stat().st_size == whole
    async with worker(tmp_path):
        assert path.stat().st_size < whole
        assert (tmp_path / ".bulkfetch" / f"{path.name}.torn").read_bytes() == b'{"v":1,"run":"half'


async def test_many_workers_may_start_at_once(tmp_path):
    """Each begins alone if it can, and all get in: who is first does not shut the others out."""
    async with AsyncExitStack() as stack:
        opened = []

        async def start():
            opened.append(await stack.enter_async_context(worker(tmp_path)))

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(start)
        assert len({manifest.run for manifest in opened}) == 6


async def test_workers_that_end_beside_each_other_leave_a_sound_chain(tmp_path):
    """Their summaries and that of the run after them make a chain without a problem."""
    async with worker(tmp_path) as one, worker(tmp_path) as two:
        for manifest in (one, two):
            await manifest.append([row(manifest.run)])
        await finish(one, 1, MORNING)
        await finish(two, 1, MORNING)
    later = MORNING + timedelta(days=1)
    async with ManifestWriter.open(tmp_path, clock=lambda: later) as alone:
        await finish(alone, 0, later, source="ids.txt")
    assert await problems(tmp_path) == []


async def test_the_account_of_a_queue_is_that_of_all_its_workers_since_it_was_drained(tmp_path):
    """Counted are the different invoices of those who worked at the same time, of those who died or were stopped before
    them, and of nobody before the queue was last drained; who comes when all is done counts those before it."""
    day = timedelta(days=1)
    async with worker(tmp_path, MORNING - 2 * day) as manifest:
        await manifest.append([row("yesterday")])
        await finish(manifest, 1, MORNING - 2 * day)
    async with worker(tmp_path, MORNING - day) as died:
        await died.append([row("a")])
    async with worker(tmp_path, MORNING - day / 2) as stopped:
        await stopped.append([row("a"), row("b")])
        await finish(stopped, 2, MORNING - day / 2, finished=False)
    async with worker(tmp_path) as one, worker(tmp_path) as two:
        await one.append([row("c"), row("x", Outcome.FAILED)])
        await two.append([row("d"), row("a")])
        assert await one.distinct_since_drain(QUEUE, 2) == 5
        await finish(one, 2, MORNING)
        assert await two.distinct_since_drain(QUEUE, 2) == 5
        assert await two.distinct_since_drain("another queue", 2) == 2
        await finish(two, 2, MORNING)
    async with worker(tmp_path, MORNING + day) as late:
        assert await late.distinct_since_drain(QUEUE, 0) == 5
        await finish(late, 0, MORNING + day)
    async with worker(tmp_path, MORNING + 2 * day) as next_night:
        await next_night.append([row("e")])
        assert await next_night.distinct_since_drain(QUEUE, 1) == 1


async def test_workers_that_start_together_and_end_soon_are_of_one_account(tmp_path):
    """Their run IDs name later and later moments, so that they sort; who ends within these seconds counts all the same,
    beside one that lives, one that died and for whoever comes after."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(tmp_path)) for _ in range(6)]
        for number, manifest in enumerate(workers):
            await manifest.append([row(f"INV-{number}")])
        for manifest in workers[:-2]:
            await finish(manifest, 1, MORNING, lasting=timedelta(seconds=2))
        assert await workers[-1].distinct_since_drain(QUEUE, 1) == 6
    async with worker(tmp_path, MORNING + timedelta(minutes=1)) as later:
        assert await later.distinct_since_drain(QUEUE, 0) == 6
        await later.append([row("INV-late")])
        assert await later.distinct_since_drain(QUEUE, 1) == 7


async def test_a_worker_that_never_ends_counts_with_what_it_did_since_the_queue_was_drained(tmp_path):
    """Beside it others come each night until the queue is empty: of its rows, those after the last such night count, be
    it still at work or stopped since."""
    day, minute = timedelta(days=1), timedelta(minutes=1)
    async with worker(tmp_path, MORNING - day) as lasting:
        for night in range(2):
            start = MORNING + night * day
            await lasting.append([row(f"INV-{night}-0", at=start), row(f"INV-{night}-1", at=start + minute)])
            async with worker(tmp_path, start) as nightly:
                await nightly.append([row(f"INV-{night}-2", at=start + minute)])
                assert await nightly.distinct_since_drain(QUEUE, 1) == 3
                await finish(nightly, 1, start)
        start = MORNING + 2 * day
        await lasting.append([row("INV-2-0", at=start - minute)])
        async with worker(tmp_path, start) as nightly:
            await nightly.append([row("INV-2-1", at=start + minute)])
            await finish(lasting, 5, MORNING - day, finished=False, lasting=3 * day)
            assert await nightly.distinct_since_drain(QUEUE, 1) == 2
