"""The doubles behave as the real ones do; those of `Source` pass its contract suite."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import anyio
import pytest
from support.doubles import GivenBody, GivenHistory, RecordingManifest, chunks
from support.rows import clock, row

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.manifest import ManifestWriter
from bulkfetch.manifest.history import SnapshotHistory
from bulkfetch.models import Entry, Row

pytestmark = pytest.mark.anyio


async def test_a_body_gives_its_chunks_and_then_their_digest() -> None:
    """The chunks come in order; the digest is known at the end, and asking for it before is a fault of whoever asks."""
    data, moments = bytes(range(256)) * 1000, []

    async def moment() -> None:
        moments.append(sum(map(len, read)))

    read: list[bytes] = []
    body = GivenBody(*chunks(data, 100_000), moment)
    while await body.gather(read, 0):
        with pytest.raises(AssertionError, match="before the end"):
            _ = body.sha256
    assert (b"".join(read), body.sha256) == (data, hashlib.sha256(data).hexdigest())
    assert moments == [len(data)]


async def test_a_body_that_fails_raises_instead_of_ending() -> None:
    """Whoever reads to the end holds a whole body; this one has no end, and no digest."""
    body = GivenBody(b"%PDF-", TransientError(Reason.TRUNCATED, "cut"), b"never")
    read: list[bytes] = []
    with pytest.raises(TransientError, match="cut"):
        await body.gather(read, 1 << 20)
    assert read == [b"%PDF-"]
    with pytest.raises(AssertionError, match="before the end"):
        _ = body.sha256


async def test_a_manifest_keeps_the_lines_of_durable_rows_alone(tmp_path) -> None:
    """What the real manifest took is kept, and what it refused is not; `stop_waiting` reaches it."""
    durable: set[int | None] = set()
    async with ManifestWriter.open(tmp_path, clock=clock) as real:
        await RecordingManifest(real, durable).append([row("INV-1", line=1), row("INV-2", line=2)])
    refusing = Refusing()
    manifest = RecordingManifest(refusing, durable)
    with pytest.raises(FatalError):
        await manifest.append([row("INV-3", line=3)])
    manifest.stop_waiting()
    assert durable == {1, 2}
    assert refusing.stopped_waiting


class Refusing:
    """A manifest that takes nothing."""

    hurried = False

    async def append(self, rows: Sequence[Row]) -> None:
        await anyio.lowlevel.checkpoint()
        raise FatalError("no space left")

    async def find(self, ids: Collection[str]) -> Sequence[tuple[int, Row]]:
        """None was kept."""
        return []

    def stop_waiting(self) -> None:
        self.stopped_waiting = True


async def test_a_history_tells_what_is_stored_and_repeated_as_a_real_one_does(tmp_path: Path) -> None:
    """What was stored, by whom a key is taken, and which rows repeat an ID: the same from the double and an archive."""
    archive = tmp_path / "archive"
    async with ManifestWriter.open(archive, clock=clock) as manifest:
        await manifest.append([row("a"), row("b")])
    entries = {invoice_id: Entry(f"{invoice_id}.pdf", 7, "ab" * 32) for invoice_id in ("a", "b")}
    async with SnapshotHistory.open(archive, seen=tmp_path / "seen") as real:
        for history in (real, GivenHistory(entries)):
            assert await history.stored(["a", "c"]) == {"a": entries["a"]}
            assert await history.accepted(["a", "c"]) == {}
            assert [await history.owner(key) for key in ("b.pdf", "c.pdf")] == ["b", None]
            assert await history.find_repeats([("a", 1), ("c", 2), ("a", 3)]) == {2: 1}
            assert await history.find_repeats([("d", 4), ("c", 5)]) == {1: 2}
            await history.refresh()
