"""Opens the archive that `destination.url` names: a directory, or a bucket with a local copy of its manifests."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import anyio

from bulkfetch.app.open_manifest import open_manifest
from bulkfetch.config import Config, Destination
from bulkfetch.errors import UsageError
from bulkfetch.events import Listener, Note, Origin
from bulkfetch.interfaces import Store
from bulkfetch.keys import STATE
from bulkfetch.manifest import ManifestWriter
from bulkfetch.manifest.bucket_mirror import Mirror
from bulkfetch.net.gate import Gate
from bulkfetch.stores import LocalStore
from bulkfetch.stores.bucket.address import SCHEMES, Bucket, BucketSettings, connect
from bulkfetch.stores.bucket.object_lock import LockSettings
from bulkfetch.stores.bucket.objects import BucketObjects
from bulkfetch.stores.bucket.store import BucketStore
from bulkfetch.stores.quarantine import QUARANTINE, Quarantine

SPOOL = "spool"

SMALL_OBJECT = timedelta(seconds=30)
"""The time for a request that carries a part of the manifest: a silent store is noticed sooner than by an upload."""


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


def local_copy(bucket: Bucket, endpoint: str, environ: Mapping[str, str]) -> Path:
    """The directory for the local copy of a bucket's manifests, its ledger and its spool: a cache, by XDG's rules.

    Raises:
        UsageError: `environ` names no place for it, and the user has no home directory.
    """
    try:
        cache = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache")
    except RuntimeError:
        raise UsageError("no place for the local copy of the manifests: set XDG_CACHE_HOME or HOME") from None
    name = hashlib.sha256(f"{endpoint}\n{bucket.name}".encode()).hexdigest()[:16]
    return cache / "bulkfetch" / name


@asynccontextmanager
async def open_archive(
    config: Config, environ: Mapping[str, str], *, rng: Random, notify: Listener, shared: bool = False
) -> AsyncIterator[tuple[ManifestWriter, Store]]:
    """The manifest of a new run, and the store. The manifest comes first: it holds the archive's lock.

    `environ` holds the credentials for a bucket. With `shared` the lock is held together with others that share
    the archive.

    Raises:
        ArchiveLocked: another run holds the archive.
        UsageError: the destination is no place for an archive.
        FatalError: it cannot be used; the message names the fix.
    """
    settings = config.destination
    bucket = await connect(bucket_settings(settings), environ) if is_bucket(settings.url) else None
    if bucket is None:
        root, objects = local_root(settings.url), None
    else:
        root = local_copy(bucket, settings.endpoint, environ)
        # The time that a request may take belongs to a client, so the manifest has a client of its own.
        objects = BucketObjects(await connect(bucket_settings(settings), environ, patience=SMALL_OBJECT))
    async with AsyncExitStack() as stack:
        manifest, root = await open_manifest(
            stack, root, objects, shared=shared, patience=settings.wait_lock, clock=utc_now, notify=notify
        )
        store = _open_store(config, bucket, manifest.run, root / SPOOL, rng=rng, notify=notify)
        yield manifest, await stack.enter_async_context(store)


async def readable_manifests(settings: Destination, scratch: Path, environ: Mapping[str, str]) -> Path:
    """The directory with the manifests of an archive that is only looked at.

    The manifests of a bucket, whose credentials `environ` holds, are read into `scratch`.

    Raises:
        UsageError: the destination is no place for an archive.
        FatalError: the bucket cannot be read.
    """
    if not is_bucket(settings.url):
        return local_root(settings.url)
    bucket = await connect(bucket_settings(settings), environ, patience=SMALL_OBJECT)
    await anyio.to_thread.run_sync(Mirror(BucketObjects(bucket), scratch).pull)
    return scratch


@asynccontextmanager
async def open_store(
    config: Config, environ: Mapping[str, str], run: str, spool: Path, *, rng: Random, notify: Listener
) -> AsyncIterator[Store]:
    """The store alone. `environ` holds the credentials for a bucket.

    What a bucket's store cannot hold in memory waits in the local directory `spool`.

    Raises:
        UsageError: the destination is no place for an archive.
        FatalError: it cannot be used; the message names the fix.
    """
    settings = config.destination
    bucket = await connect(bucket_settings(settings), environ) if is_bucket(settings.url) else None
    async with _open_store(config, bucket, run, spool, rng=rng, notify=notify) as store:
        yield store


@asynccontextmanager
async def _open_store(
    config: Config, bucket: Bucket | None, run: str, spool: Path, *, rng: Random, notify: Listener
) -> AsyncIterator[Store]:
    limits, loop = config.limits, asyncio.get_running_loop()

    def tell(message: str) -> None:
        # What is refused is kept aside by threads.
        loop.call_soon_threadsafe(notify, Note("warning", message))

    if bucket is None:
        root = local_root(config.destination.url)
        async with LocalStore.open(
            root, run, Quarantine(root / STATE / QUARANTINE, limit=limits.quarantine, tell=tell)
        ) as local:
            yield local
        return
    gate = Gate(Origin.OBJECT_STORE, ceiling=limits.workers, max_outage=limits.max_outage, rng=rng, notify=notify)
    kept = Quarantine(spool / QUARANTINE, limit=limits.quarantine, tell=tell)
    opening = BucketStore.open(bucket, gate=gate, spool=spool, quarantine=kept, utc_now=utc_now, notify=notify)
    async with opening as remote:
        yield remote
