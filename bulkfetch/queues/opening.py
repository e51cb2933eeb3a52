"""From a URL to an open queue, by the driver of its engine."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from bulkfetch.errors import UsageError
from bulkfetch.events import Listener
from bulkfetch.interfaces import Queue
from bulkfetch.text import printable

if TYPE_CHECKING:
    from bulkfetch.queues.jetstream.queue import JetStreamQueue
    from bulkfetch.queues.sqs.queue import SqsQueue

SCHEMES = ("nats", "tls", "sqs")


def is_queue(spec: str) -> bool:
    """Whether `spec` is the URL of a queue."""
    scheme, found, _ = spec.partition("://")
    return bool(found) and scheme in SCHEMES


@asynccontextmanager
async def open_queue(
    url: str, environ: Mapping[str, str], *, notify: Listener, create: bool = False
) -> AsyncIterator[Queue]:
    """The queue that `url` names, open until the block ends. With `create` it is made where it is missing.

    Raises:
        UsageError: URL or credentials cannot be used, or the engine's client is not installed.
        FatalError: the queue cannot be reached, or is not there.
    """
    driver = await anyio.to_thread.run_sync(_driver, url)
    async with driver.open(url, environ, create=create, notify=notify) as queue:
        yield queue


def _driver(url: str) -> "type[JetStreamQueue | SqsQueue]":
    # Each engine's client is slow to import, and only one is needed.
    if url.startswith("sqs://"):
        from bulkfetch.queues.sqs.queue import SqsQueue

        return SqsQueue
    if is_queue(url):
        from bulkfetch.queues.jetstream.queue import JetStreamQueue

        return JetStreamQueue
    # What stands before an @ may be a password.
    raise UsageError(
        f"queue {printable(url.rpartition('@')[2], 200)}: give it as nats://host:4222/stream or sqs://name"
    )
