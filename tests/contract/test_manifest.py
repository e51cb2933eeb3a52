"""The contract of `Manifest`: what `append` returned for is durable, once, in order; a failure leaves nothing half."""

import asyncio
import subprocess
import sys
import threading

import anyio
import pytest
from support.rows import clock, row, summary

from bulkfetch.errors import ArchiveLocked, FatalError, UsageError
from bulkfetch.manifest import ManifestWriter, list_runs, read_rows, read_summary, unfinished_runs, verify_chain
from bulkfetch.models import Entry, Outcome, Row

pytestmark = pytest.mark.anyio


async def recorded(root):
    """The IDs in all manifests under `root`, read through other handles and off the loop."""
    return await anyio.to_thread.run_sync(
        lambda: [found.invoice_id for run in list_runs(root) for block, _ in read_rows(run.manifest) for found in block]
    )


async def test_appended_rows_can_be_read_while_the_run_goes_on(tmp_path):
    """What `append` returned for is in the file, readable through another handle, with every key."""
    async with ManifestWriter.open(tmp_path / "a" / "b", clock=clock) as manifest:
        await manifest.append([row("INV-1", fields={"year": "2025"}), row("INV-2", Outcome.FAILED)])
        assert await recorded(tmp_path / "a" / "b") == ["INV-1", "INV-2"]
        line = (tmp_path / "a/b/manifests" / f"{manifest.run}.jsonl").read_bytes().split(b"\n")[0]
    assert all(f'"{name}":'.encode() in line for name in Row.__struct_fields__ if name != "corrects")


async def test_concurrent_appends_are_all_there_once_and_in_each_callers_order(tmp_path):
    """Rows of many callers all arrive exactly once, and those of one caller in the order it appended them."""

    async def caller(name):
        for number in range(20):
            await manifest.append([row(f"{name}-{number:02d}-a"), row(f"{name}-{number:02d}-b")])

    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        async with anyio.create_task_group() as tasks:
            for name in range(16):
                tasks.start_soon(caller, f"{name:02d}")
        found = await recorded(tmp_path)
    assert len(found) == len(set(found)) == 16 * 20 * 2
    for name in range(16):
        mine = [invoice_id for invoice_id in found if invoice_id.startswith(f"{name:02d}-")]
        assert mine == sorted(mine)


async def test_a_row_that_cannot_be_encoded_hurts_its_caller_alone(tmp_path):
    """A row with a lone surrogate is refused before it joins the others."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        with pytest.raises(UnicodeEncodeError):
            await manifest.append([row("INV-\ud800")])
        await manifest.append([row("INV-1")])
    assert await recorded(tmp_path) == ["INV-1"]


async def test_haste_loses_nothing(tmp_path):
    """`stop_waiting` may be called at any time, and what can be recorded is."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manifest.append, [row("INV-1")])
            await anyio.lowlevel.checkpoint()
            manifest.stop_waiting()
        await manifest.append([row("INV-2")])
        await manifest.finish(summary())
    assert await recorded(tmp_path) == ["INV-1", "INV-2"]


async def test_a_cancelled_caller_has_recorded_its_rows(tmp_path):
    """A cancellation of one caller waits for the write: its rows and everybody else's are recorded."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(manifest.append, [row(f"INV-{number}")])
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert scope.cancelled_caught
        assert sorted(await recorded(tmp_path)) == [f"INV-{number}" for number in range(8)]


async def test_a_task_killed_by_asyncio_does_not_break_the_others(tmp_path):
    """A plain `Task.cancel`, which no scope shields from, loses nobody's rows and lets the others return."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        tasks = [asyncio.ensure_future(manifest.append([row(f"INV-{number}")])) for number in range(8)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number, end in enumerate(ended) if end is not None] == [0, 3]
    assert sorted(await recorded(tmp_path)) == [f"INV-{number}" for number in range(8)]


FULL_DISK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
import anyio
sys.path[:0] = [{tests!r}]
from support.rows import clock, row, summary
from bulkfetch.errors import FatalError
from bulkfetch.manifest import ManifestWriter

async def refused(act, *arguments):
    try:
        await act(*arguments)
    except FatalError as error:
        print("refused", error, flush=True)

async def main():
    async with ManifestWriter.open(Path({root!r}), clock=clock) as manifest:
        await manifest.append([row("INV-1")])
        size = Path({root!r}, "manifests", manifest.run + ".jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
        async with anyio.create_task_group() as tasks:
            for number in range(2, 6):
                tasks.start_soon(refused, manifest.append, [row(f"INV-{{number}}")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await refused(manifest.append, [row("INV-6")])
        await refused(manifest.finish, summary())

anyio.run(main)
"""


async def test_a_full_disk_ends_the_run_with_nothing_half_written(tmp_path):
    """A write that the system cuts short fails the waiting callers and all later ones; whole rows alone stay."""
    tests = str(anyio.Path(__file__).parent.parent)
    code = FULL_DISK.format(tests=tests, root=str(tmp_path))
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    )
    assert done.stderr == ""
    assert done.stdout.count("refused cannot write the manifest") == 6
    assert await recorded(tmp_path) == ["INV-1"]
    (run,) = await anyio.to_thread.run_sync(unfinished_runs, tmp_path)
    assert run.manifest.read_bytes().count(b"\n") == 1
    assert run.manifest.read_bytes().endswith(b"}\n")


async def test_the_summary_seals_the_run(tmp_path):
    """`finish` fills in rows and hashes, chains runs one behind the other, and takes no row after."""
    written = []
    for number in range(3):
        async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
            await manifest.append([row(f"INV-{number}")])
            written.append(await manifest.finish(summary()))
            file = tmp_path / "manifests" / f"{manifest.run}.json"
            assert await anyio.to_thread.run_sync(read_summary, file) == written[-1]
            with pytest.raises(FatalError, match="closed"):
                await manifest.append([row("INV-9")])
    assert [each.previous for each in written] == [None, f"{written[0].run}.json", f"{written[1].run}.json"]
    assert [each.manifest_rows for each in written] == [1, 1, 1]
    assert await anyio.to_thread.run_sync(verify_chain, tmp_path) == []


async def test_what_earlier_runs_stored_is_known(tmp_path):
    """`stored` and `owner` answer from earlier runs and from this one; only stored rows count."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        await manifest.append([row("INV-1"), row("INV-2", Outcome.FAILED)])
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        await manifest.append([row("INV-3")])
        entry = Entry("INV-1.pdf", 7, "ab" * 32)
        assert await manifest.history.stored(["INV-1", "INV-2", "INV-4"]) == {"INV-1": entry}
        assert set(await manifest.history.stored(["INV-3"])) == {"INV-3"}
        assert await manifest.history.owner("INV-3.pdf") == "INV-3"
        assert await manifest.history.owner("INV-2.pdf") is None
        assert await manifest.history.find_repeats([("a", 1), ("a", 2)]) == {1: 1}


async def test_a_second_run_is_refused_until_the_first_ends(tmp_path):
    """An archive in use says who uses it; when that run ends the archive is free."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        with pytest.raises(ArchiveLocked, match=manifest.run):
            async with ManifestWriter.open(tmp_path, clock=clock):
                pytest.fail("two runs hold one archive")
    async with ManifestWriter.open(tmp_path, clock=clock):
        pass


async def test_a_cancelled_opening_lets_the_archive_go(tmp_path):
    """A run cancelled while it opens its archive does not keep the lock."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with ManifestWriter.open(tmp_path, clock=clock):
            pytest.fail("cancelled, and open all the same")
    async with ManifestWriter.open(tmp_path, clock=clock):
        pass


async def test_a_cancelled_run_lets_the_archive_go_before_it_ends(tmp_path):
    """When a cancelled block is left the archive is free at once, however busy its thread still was."""
    busy = threading.Event()
    with anyio.CancelScope() as scope:
        async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
            manifest._thread.submit(busy.wait, 0.1)
            scope.cancel()
    async with ManifestWriter.open(tmp_path, clock=clock):
        pass


async def test_only_a_run_id_names_a_run(tmp_path):
    """A run ID that could leave the manifests' directory is refused, and nothing is created."""
    with pytest.raises(UsageError):
        async with ManifestWriter.open(tmp_path / "a", run="../evil", clock=clock):
            pass
    assert not (tmp_path / "a").exists()


async def test_a_failing_index_does_not_lose_rows(tmp_path):
    """While the ledger cannot be written rows are recorded all the same, and the next run knows every one of them."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        database = manifest._open_run.ledger._connection
        await manifest.append([row("INV-1")])
        database.execute("ALTER TABLE manifests RENAME TO hidden")
        await manifest.append([row("INV-2")])
        database.execute("ALTER TABLE hidden RENAME TO manifests")
        await manifest.append([row("INV-3")])
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        assert set(await manifest.history.stored(["INV-1", "INV-2", "INV-3"])) == {"INV-1", "INV-2", "INV-3"}


async def test_adopting_is_asked_for_after_a_run_that_died(tmp_path):
    """Objects without a row are looked for in a foreign directory, and from a run that died to one that completes."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x.pdf").touch()
    async with ManifestWriter.open(tmp_path / "foreign", clock=clock) as manifest:
        assert manifest.adopting
    root = tmp_path / "own"
    seen = []
    for end in (None, summary(finished=False), None, summary(), summary()):
        async with ManifestWriter.open(root, clock=clock) as manifest:
            seen.append(manifest.adopting)
            if end:
                await manifest.finish(end)
    assert seen == [False, True, True, True, False]


def test_files_are_private(tmp_path):
    """The state directory is its owner's alone, manifests are for owner and group."""
    anyio.run(_one_run, tmp_path)
    assert (tmp_path / ".bulkfetch").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "manifests").iterdir():
        assert file.stat().st_mode & 0o137 == 0


async def _one_run(root):
    async with ManifestWriter.open(root, clock=clock) as manifest:
        await manifest.append([row("INV-1")])
        await manifest.finish(summary())
