"""A disk in trouble is told in the same words, fix included, by everything that writes to it."""

from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread
from support.disks import AS_ROOT, Mount
from support.puts import put

from bulkfetch.errors import FatalError
from bulkfetch.manifest import ManifestWriter
from bulkfetch.models import Outcome, Row
from bulkfetch.stores import LocalStore
from bulkfetch.stores.bucket.spool import Spool

pytestmark = [pytest.mark.anyio, AS_ROOT]

MIB = 1024 * 1024
FULL = "the disk is full; free some space and run the same command again"
READ_ONLY = "the file system is read-only; mount it writable and run the same command again"
FORBIDDEN = "permission denied; let this user read and write it, or choose another destination"


class Zeros:
    """A body that fits into no spool's memory."""

    content_type = None
    sha256 = "0" * 64

    size = 0

    async def gather(self, chunks: list[bytes], limit: int) -> bool:
        chunks.append(bytes(limit + 1))
        self.size += limit + 1
        return self.size < 12 * MIB

    def close(self) -> None:
        pass


def a_row() -> Row:
    now = "2025-01-31T00:00:00.000Z"
    return Row(run="r", invoice_id="INV-1", outcome=Outcome.FAILED, started_at=now, finished_at=now)


def fill(disk: Path) -> None:
    """Leave no free block on `disk`."""
    with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(65_536)):
            pass


async def advice_of(work: Awaitable[object]) -> str:
    """What the FatalError of `work` says behind the place that it names."""
    with pytest.raises(FatalError) as caught:
        await work
    return str(caught.value).rpartition(": ")[2]


async def receive(spool: Spool) -> None:
    async with spool.receive(Zeros()):
        pass


async def test_a_full_disk_is_one_story(mount: Mount) -> None:
    """Manifest, store and a bucket's spool all say that the disk is full and what to do."""
    disk = mount("size=80m")
    async with (
        ManifestWriter.open(disk, clock=lambda: datetime.now(UTC)) as manifest,
        LocalStore.open(disk, manifest.run) as store,
    ):
        spool = await to_thread.run_sync(Spool, disk / "spool")
        fill(disk)
        told = [
            await advice_of(put(store, "INV-1.pdf", Zeros())),
            await advice_of(receive(spool)),
            await advice_of(manifest.append([a_row()] * 100)),
        ]

    assert told == [FULL] * 3


async def unwritable(root: Path) -> list[str]:
    """What manifest, store and spool say when they cannot be opened in `root`."""
    manifest = ManifestWriter.open(root, clock=lambda: datetime.now(UTC))
    opening_spool = partial(to_thread.run_sync, Spool, root / "spool", "run-1")
    return [
        await advice_of(manifest.__aenter__()),
        await advice_of(LocalStore.open(root, "run-1").__aenter__()),
        await advice_of(opening_spool()),
    ]


async def test_a_read_only_disk_is_one_story(mount: Mount) -> None:
    """Manifest, store and a bucket's spool all say that the disk is read-only and what to do."""
    assert await unwritable(mount("size=80m,ro")) == [READ_ONLY] * 3


@pytest.mark.usefixtures("as_nobody")
async def test_a_forbidden_directory_is_one_story(tmp_path: Path) -> None:
    """Manifest, store and a bucket's spool all say that permission is denied and what to do."""
    assert await unwritable(tmp_path) == [FORBIDDEN] * 3


async def test_a_file_is_no_destination(tmp_path: Path) -> None:
    """Manifest, store and a bucket's spool all say that there is a file where a directory is needed."""
    (tmp_path / "file").touch()
    told = await unwritable(tmp_path / "file")
    assert told == ["it, or something on its way, is not a directory; choose another destination"] * 3
