"""Bucket stores for tests: composed as a run does it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from bulkfetch.app.open_archive import bucket_settings
from bulkfetch.config import Destination
from bulkfetch.events import Listener
from bulkfetch.net.gate import Gate
from bulkfetch.stores.bucket.address import Bucket, connect
from bulkfetch.stores.bucket.store import BucketStore
from support.seaweed import Seaweed


def a_gate(notify: Listener = lambda _: None) -> Gate:
    """A gate as wide as a run's; it gives up after two seconds of outage."""
    return Gate("bucket", ceiling=32, max_outage=2.0, rng=Random(1), notify=notify)


def open_bucket(
    bucket: Bucket,
    *,
    spool: Path,
    gate: Gate | None = None,
    answer_seconds: float = 30.0,
    notify: Listener = lambda _: None,
) -> AbstractAsyncContextManager[BucketStore]:
    """The store in `bucket`."""
    return BucketStore.open(
        bucket,
        gate=gate or a_gate(),
        spool=spool,
        utc_now=lambda: datetime.now(UTC),
        notify=notify,
        answer_seconds=answer_seconds,
    )


@asynccontextmanager
async def connected(
    settings: Destination,
    seaweed: Seaweed,
    *,
    spool: Path,
    gate: Gate | None = None,
    answer_seconds: float = 30.0,
    environ: Mapping[str, str] | None = None,
    notify: Listener = lambda _: None,
) -> AsyncIterator[BucketStore]:
    """The store that `settings` name, on `seaweed`, or on another endpoint by `environ`."""
    bucket = await connect(bucket_settings(settings), {**seaweed.environ, **(environ or {})})
    async with open_bucket(bucket, spool=spool, gate=gate, answer_seconds=answer_seconds, notify=notify) as store:
        yield store
