"""What the tests of the NATS queue share: an administrator's connection, and short ways to open and fill a queue."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import nats as nats_py
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from bulkfetch.events import Listener
from bulkfetch.models import DeadLetter, Lease, QueueStats
from bulkfetch.queues.jetstream.queue import JetStreamQueue
from bulkfetch.queues.jetstream.setup import CONSUMER, StreamNames


def opened(
    url: str,
    environ: Mapping[str, str] | None = None,
    *,
    create: bool = True,
    notify: Listener = lambda event: None,
) -> AbstractAsyncContextManager[JetStreamQueue]:
    """The queue at `url`, made where it is missing."""
    return JetStreamQueue.open(url, environ or {}, create=create, notify=notify)


@asynccontextmanager
async def admin(url: str, **options: Any) -> AsyncIterator[JetStreamContext]:
    """A connection of an administrator with the server of `url`."""
    client = await nats_py.connect(url.rpartition("/")[0], **options)
    try:
        yield client.jetstream(timeout=5)
    finally:
        await client.close()


def stream_of(url: str) -> str:
    """The stream that `url` names."""
    return url.rpartition("/")[2]


def queue_config(url: str, **changes: Any) -> StreamConfig:
    """The stream of a queue as an administrator may make it, with `changes`."""
    names = StreamNames(stream_of(url))
    config = StreamConfig(
        name=names.stream,
        subjects=[names.subjects],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
    )
    return config.evolve(**changes)


def dead_config(url: str, **changes: Any) -> StreamConfig:
    """The stream of its dead letters, with `changes`."""
    names = StreamNames(stream_of(url))
    config = StreamConfig(
        name=names.dead, subjects=[names.dead_subjects], storage=StorageType.FILE, max_msgs_per_subject=1
    )
    return config.evolve(**changes)


async def with_lease(url: str, seconds: float) -> None:
    """Make the queue at `url` with a consumer whose leases last `seconds`."""
    async with admin(url) as js:
        await js.add_stream(queue_config(url))
        await js.add_stream(dead_config(url))
        await js.add_consumer(stream_of(url), ConsumerConfig(durable_name=CONSUMER, ack_wait=seconds, max_deliver=-1))


def dead_letter(invoice_id: str, **changes: Any) -> DeadLetter:
    """A dead letter of `invoice_id`."""
    words = {
        "invoice_id": invoice_id,
        "reason": "not_found",
        "message": None,
        "deliveries": 1,
        "failed_at": "2026-01-01T00:00:00.000Z",
        "run": "r",
        "body": invoice_id,
    }
    return DeadLetter(**(words | changes))


async def until(true: Callable[[], object], within: float = 20.0) -> None:
    """Wait until `true` is."""
    with anyio.fail_after(within):
        while not true():  # noqa: ASYNC110 - what is waited for tells nobody
            await anyio.sleep(0.01)


async def until_stats(queue: JetStreamQueue, expected: QueueStats) -> None:
    """Wait until the queue counts so much: what was said without waiting for an answer takes a moment."""
    stats = None
    try:
        with anyio.fail_after(20.0):
            while (stats := await queue.stats()) != expected:  # noqa: ASYNC110 - what is waited for tells nobody
                await anyio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"the queue counts {stats}, not {expected}") from None


async def take(queue: JetStreamQueue, number: int, within: float = 20.0) -> list[Lease]:
    """`number` leases, or an error."""
    leases: list[Lease] = []
    with anyio.fail_after(within):
        while len(leases) < number:
            leases += await queue.fetch(number - len(leases), 0.2)
    return leases
