"""The spool: what waits in memory, what on disk, and what is left of either."""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from support.doubles import GivenBody

from bulkfetch.errors import FatalError, PermanentError, Reason
from bulkfetch.stores.bucket.spool import LARGEST_IN_MEMORY, MIB, Content, Spool
from bulkfetch.stores.quarantine import Quarantine

pytestmark = pytest.mark.anyio


def parts(count: int) -> list[bytes]:
    """`count` chunks, each different."""
    return [bytes([number % 251]) * 65_536 for number in range(count)]


async def spool_in(directory: Path, **more: Any) -> Spool:
    return await to_thread.run_sync(partial(Spool, directory, **more))


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(("count", "in_memory"), [(0, True), (1, True), (128, True), (129, False), (400, False)])
async def test_small_in_memory_large_on_disk(tmp_path, count, in_memory) -> None:
    """Up to 8 MiB are held in memory, more is on disk; either way it is the body, and no file is left."""
    async with (await spool_in(tmp_path)).receive(GivenBody(*parts(count))) as content:
        assert bytes(content.data) == b"".join(parts(count))
        assert (content.size, content.in_memory) == (count * 65_536, in_memory)
    assert files_in(tmp_path) == []


async def test_bodies_share_a_bounded_memory(tmp_path) -> None:
    """When the others hold all the memory there is, a small body goes to disk instead of waiting; later it need not."""
    spool = await spool_in(tmp_path, memory=MIB)
    first_body, second_body = GivenBody(*parts(12)), GivenBody(*parts(5))
    async with spool.receive(first_body) as first, spool.receive(second_body) as second:
        assert (first.in_memory, second.in_memory) == (True, False)
        assert bytes(second.data) == b"".join(parts(5))
    async with spool.receive(GivenBody(*parts(16))) as third:
        assert third.in_memory


async def test_memory_comes_back_from_bodies_that_fail(tmp_path) -> None:
    """A body that fails, in memory or on disk, gives back what it held."""
    spool = await spool_in(tmp_path, memory=LARGEST_IN_MEMORY)
    for count in (3, 128, 129, 200):
        with pytest.raises(RuntimeError):
            async with spool.receive(GivenBody(*parts(count), RuntimeError("cut"))):
                pass
    async with spool.receive(GivenBody(*parts(128))) as content:
        assert content.in_memory


@pytest.mark.parametrize("count", [1, 200])
async def test_bytes_that_must_not_be_archived_are_kept(tmp_path, count) -> None:
    """A body that fails with `hold` is in the quarantine afterwards, once, under the name of its SHA-256."""
    spool = await spool_in(tmp_path)
    for _ in range(2):
        body = GivenBody(*parts(count), PermanentError(Reason.NOT_PDF, "no PDF", hold=True))
        with pytest.raises(PermanentError):
            async with spool.receive(body):
                pass

    [kept] = files_in(tmp_path)
    assert kept == tmp_path / "quarantine" / hashlib.sha256(kept.read_bytes()).hexdigest()
    assert kept.read_bytes() == b"".join(parts(count))


def test_a_directory_that_cannot_be_used(tmp_path) -> None:
    """A spool in a place that takes no files is an error that names it, before any body comes."""
    (tmp_path / "file").touch()
    with pytest.raises(FatalError, match="file"):
        Spool(tmp_path / "file")


async def test_what_is_kept_survives_a_power_loss(tmp_path, monkeypatch) -> None:
    """The bytes in quarantine are synced before `keep` returns, and so are their name and the directories above it."""
    spool = await spool_in(tmp_path)
    synced: list[Path] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    kept = await spool.keep(Content(b"no PDF"), "ab" * 32)

    assert kept == tmp_path / "quarantine" / ("ab" * 32)
    assert synced[-2].name.startswith(kept.name)
    assert synced[-1] == kept.parent
    assert {tmp_path, tmp_path / "quarantine"} < set(synced)


async def test_a_quarantine_that_takes_nothing_harms_nobody(tmp_path) -> None:
    """Where the quarantine is full or cannot be used, nothing is kept, a message says so, and no error comes of it."""
    told: list[str] = []
    for place, limit in ((tmp_path / "full", 9), (tmp_path / "file/in", 100)):
        (tmp_path / "file").touch()
        spool = await spool_in(tmp_path, quarantine=Quarantine(place, limit=limit, tell=told.append))
        for digit in "12":
            assert await spool.keep(Content(b"no PDF of 10"), digit * 64) is None
    full, unusable = told
    assert "limits.quarantine" in full
    assert "cannot be kept" in unusable
