"""Opens the archive that `destination.url` names: a directory, or a bucket with a local copy of its manifests."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import anyio

from bulkfetch.config import Config, Destination
from bulkfetch.errors import ArchiveLocked, UsageError
from bulkfetch.events import Event
from bulkfetch.interfaces import Store
from bulkfetch.manifest import ManifestWriter
from bulkfetch.manifest.bucket_mirror import Mirror
from bulkfetch.net.gate import Gate
from bulkfetch.stores import LocalStore
from bulkfetch.stores.bucket.address import SCHEMES, Bucket, BucketSettings, connect
from bulkfetch.stores.bucket.object_lock import LockSettings
from bulkfetch.stores.bucket.objects import BucketObjects
from bulkfetch.stores.bucket.store import BucketStore

ORIGIN = "object store"
SPOOL = "spool"
WORKERS_HERE = 64
"""Workers of a queue that write into one bucket from one machine, at most."""

SMALL_OBJECT = timedelta(seconds=30)
"""For a request that carries a part of the manifest: nobody should wait for a silent store as long as for an upload."""


def utc_now() -> datetime:
    """The wall clock, for records."""
    return datetime.now(UTC)


def is_bucket(destination: str) -> bool:
    """Whether `destination` is the URL of a bucket."""
    return destination.partition("://")[0] in SCHEMES and "://" in destination


def bucket_settings(destination: Destination) -> BucketSettings:
    """The bucket's part of `destination`."""
    return BucketSettings(
        url=destination.url,
        endpoint=destination.endpoint,
        region=destination.region,
        path_style=destination.path_style,
        lock=LockSettings(
            mode=destination.lock_mode,
            days=destination.lock_days,
            column=destination.lock_column,
            years=destination.lock_years,
            confirm=destination.lock_confirm,
        ),
    )


def local_root(destination: str) -> Path:
    """The directory that `destination` (a path or a file:// URL) names.

    Raises:
        UsageError: it names something else.
    """
    scheme, found, rest = destination.partition("://")
    if found and scheme != "file":
        raise UsageError(f"destination {scheme}://: give a directory, or a bucket as {', '.join(SCHEMES)}://…")
    return Path(rest if found else destination).expanduser()


def local_copy(bucket: Bucket, config: Config, environ: Mapping[str, str]) -> Path:
    """Where the copy of a bucket's manifests, its ledger and its spool are: a cache, by XDG's rules."""
    try:
        cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise UsageError("no place for the local copy of the manifests: set XDG_CACHE_HOME or HOME") from None
    name = hashlib.sha256(f"{config.destination.endpoint}\n{bucket.name}".encode()).hexdigest()[:16]
    return cache / "bulkfetch" / name


@asynccontextmanager
async def open_archive(
    config: Config, *, rng: Random, notify: Callable[[Event], None], shared: bool = False
) -> AsyncIterator[tuple[ManifestWriter, Store]]:
    """The manifest of a new run, and the store, in that order: the manifest holds the archive's lock. With `shared` it
    is held together with the other workers of a queue.

    Raises:
        ArchiveLocked: another run holds the archive.
        UsageError: the destination cannot be meant.
        FatalError: it cannot be used; the message names the fix.
    """
    if is_bucket(config.destination.url):
        bucket = await connect(bucket_settings(config.destination), os.environ)
        root = local_copy(bucket, config, os.environ)
        objects = BucketObjects(await connect(bucket_settings(config.destination), os.environ, patience=SMALL_OBJECT))
    else:
        root, objects = local_root(config.destination.url), None
    async with AsyncExitStack() as stack:
        manifest, root = await _open_manifest(stack, root, objects, shared=shared)
        store = open_store(config, manifest.run, root / SPOOL, rng=rng, notify=notify)
        yield manifest, await stack.enter_async_context(store)


async def readable_manifests(destination: Destination, scratch: Path) -> Path:
    """The directory that holds the manifests of an archive that is only looked at; those of a bucket are read into
    `scratch`.

    Raises:
        UsageError: the destination cannot be meant.
        FatalError: the bucket cannot be read.
    """
    if not is_bucket(destination.url):
        return local_root(destination.url)
    bucket = await connect(bucket_settings(destination), os.environ, patience=SMALL_OBJECT)
    await anyio.to_thread.run_sync(Mirror(BucketObjects(bucket), scratch).pull)
    return scratch


async def _open_manifest(
    stack: AsyncExitStack, root: Path, objects: BucketObjects | None, *, shared: bool
) -> tuple[ManifestWriter, Path]:
    """The manifest, and the directory it is in: each worker on this machine has its own copy of a bucket's."""
    own_copies = shared and objects is not None
    for number in range(1, WORKERS_HERE + 1):
        place = root.with_name(f"{root.name}-{number}") if number > 1 else root
        opening = ManifestWriter.open(place, clock=utc_now, objects=objects, shared=shared)
        try:
            return await stack.enter_async_context(opening), place
        except ArchiveLocked:
            if not own_copies or number == WORKERS_HERE:
                raise
    raise AssertionError  # the last round returns or raises


@asynccontextmanager
async def open_store(
    config: Config, run: str, spool: Path, *, rng: Random, notify: Callable[[Event], None]
) -> AsyncIterator[Store]:
    """The store alone. What a bucket's store cannot hold in memory waits in the local directory `spool`.

    Raises:
        UsageError: the destination cannot be meant.
        FatalError: it cannot be used; the message names the fix.
    """
    if not is_bucket(config.destination.url):
        async with LocalStore.open(local_root(config.destination.url), run) as local:
            yield local
        return
    bucket = await connect(bucket_settings(config.destination), os.environ)
    gate = Gate(ORIGIN, ceiling=config.limits.workers, max_outage=config.limits.max_outage, rng=rng, notify=notify)
    async with BucketStore.open(bucket, gate=gate, run=run, spool=spool, utc_now=utc_now) as remote:
        yield remote
