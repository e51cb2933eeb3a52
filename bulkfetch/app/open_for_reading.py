"""Opens an archive for those who only read it: its manifests, its objects, and its lock where it has one."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

from anyio import to_thread

from bulkfetch.app.open_archive import SMALL_OBJECT, bucket_settings, is_bucket, local_root, utc_now
from bulkfetch.app.verify_record import RECORD, read_record, write_record
from bulkfetch.config import Config
from bulkfetch.errors import ArchiveLocked, UsageError
from bulkfetch.events import Listener, Note, Origin
from bulkfetch.interfaces import Reader
from bulkfetch.keys import STATE
from bulkfetch.manifest import list_runs
from bulkfetch.manifest.bucket_mirror import Mirror
from bulkfetch.manifest.lock import ArchiveLock, Holder
from bulkfetch.models import utc_iso
from bulkfetch.net.gate import Gate
from bulkfetch.retrying import polling
from bulkfetch.stores.bucket.address import connect
from bulkfetch.stores.bucket.objects import BucketObjects
from bulkfetch.stores.bucket.reader import BucketReader
from bulkfetch.stores.bucket.store import ANSWER_SECONDS
from bulkfetch.stores.local.reader import LocalReader
from bulkfetch.text import printable

DISK_READERS = 8
"""Threads that read objects from a disk."""

_LOOK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedArchive:
    """An archive that is read. `manifests` is the directory that holds them: of a bucket a copy, which `pull` fills and
    brings up to date. `record` and `keep` read and write the record of the last verification.
    """

    name: str
    in_bucket: bool
    manifests: Path
    reader: Reader
    workers: int
    pull: Callable[[], Sequence[str]]
    record: Callable[[], bytes | None]
    keep: Callable[[bytes], None]

    async def read_manifests(self) -> Sequence[str]:
        """Have the manifests as they are now; the keys of their parts that are damaged, and whose rows were found
        elsewhere.

        Raises:
            UsageError: there is no archive.
            DamagedManifest: rows are lost.
            FatalError: they cannot be read.
        """
        damaged = await to_thread.run_sync(self.pull)
        if not await to_thread.run_sync(list_runs, self.manifests):
            raise UsageError(f"{self.name}: there is no archive, for its manifests/ is empty or missing")
        return damaged


@asynccontextmanager
async def open_for_reading(
    config: Config,
    environ: Mapping[str, str],
    scratch: Path,
    *,
    download: bool = False,
    alone: bool = False,
    notify: Listener,
) -> AsyncIterator[OpenedArchive]:
    """The archive that `config` names, for reading. `environ` holds the credentials for a bucket; the copy of its
    manifests goes into `scratch`. With `download` a bucket's own checksums are not believed.

    The lock of a directory is shared with runs that share it, unless it is wanted `alone`; a directory that this user
    cannot write needs none. A bucket has no lock.

    Raises:
        ArchiveLocked: a run holds the archive.
        FatalError: it cannot be read.
    """
    if is_bucket(config.destination.url):
        async with _open_bucket(config, environ, scratch, download=download, notify=notify) as archive:
            yield archive
        return
    root = local_root(config.destination.url)
    async with AsyncExitStack() as stack:
        reader = stack.enter_context(LocalReader.open(root))
        writable = await to_thread.run_sync(os.access, root / STATE, os.W_OK)
        if writable:
            stack.enter_context(closing(await _lock(root, config.destination.wait_lock, alone=alone)))
        else:
            notify(Note("warning", f"{root / STATE} cannot be written: no run is kept away, and no record is kept"))
        yield OpenedArchive(
            name=printable(str(root), limit=4096),
            in_bucket=False,
            manifests=root,
            reader=reader,
            workers=DISK_READERS,
            pull=lambda: (),
            record=lambda: read_record(root),
            keep=lambda data: write_record(root, data) if writable else None,
        )


async def _lock(root: Path, patience: float, *, alone: bool) -> ArchiveLock:
    """The archive's lock: shared with others, or held alone."""
    held: list[ArchiveLock] = []
    refused: list[ArchiveLocked] = []
    holder = Holder(pid=os.getpid(), host=socket.gethostname(), started_at=utc_iso(utc_now()), run="verification")

    def acquire() -> None:
        lock = ArchiveLock.acquire(root / STATE / "lock", shared=not alone)
        held.append(lock)
        lock.sign(holder)
        if lock.alone and not alone:
            lock.share()

    async def look() -> bool:
        try:
            await to_thread.run_sync(acquire)
        except ArchiveLocked as error:
            while held:
                held.pop().close()
            refused.append(error)
        return bool(held)

    if not await polling(look, patience, pause=_LOOK):
        raise refused[-1]
    return held[0]


@asynccontextmanager
async def _open_bucket(
    config: Config, environ: Mapping[str, str], scratch: Path, *, download: bool, notify: Listener
) -> AsyncIterator[OpenedArchive]:
    settings, limits = config.destination, config.limits
    bucket = await connect(bucket_settings(settings), environ)
    objects = BucketObjects(await connect(bucket_settings(settings), environ, patience=SMALL_OBJECT))
    gate = Gate(Origin.OBJECT_STORE, ceiling=limits.workers, max_outage=limits.max_outage, rng=Random(), notify=notify)

    def pull() -> Sequence[str]:
        mirror = Mirror(objects, scratch)
        mirror.pull()
        return mirror.damaged

    def record() -> bytes | None:
        try:
            return objects.read(RECORD)
        except FileNotFoundError:
            return None

    opening = BucketReader.open(
        bucket, gate=gate, connections=limits.workers, download=download, answer_seconds=ANSWER_SECONDS
    )
    async with opening as reader:
        yield OpenedArchive(
            name=bucket.name,
            in_bucket=True,
            manifests=scratch,
            reader=reader,
            workers=limits.workers,
            pull=pull,
            record=record,
            keep=lambda data: objects.replace(RECORD, data),
        )
