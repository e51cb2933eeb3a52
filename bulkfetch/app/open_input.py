"""Opens what a run reads: a file, standard input, or a queue."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import anyio

from bulkfetch.app.open_archive import utc_now
from bulkfetch.config import Config
from bulkfetch.events import Listener, Note
from bulkfetch.interfaces import Queue, Source
from bulkfetch.keys import KeyTemplate
from bulkfetch.queues import is_queue, open_queue
from bulkfetch.sources import open_source
from bulkfetch.sources.queue.source import QueueSource


@dataclass(frozen=True, slots=True)
class Input:
    """What is read. `queue` is the queue behind `source`, which other workers share; None for a file."""

    source: Source
    queue: Queue | None = None


@asynccontextmanager
async def open_input(
    config: Config, spec: str, *, environ: Mapping[str, str], notify: Listener
) -> AsyncIterator[Input]:
    """The input that `spec` names. `environ` holds the credentials for a queue.

    Raises:
        UsageError: there is none, or it cannot be read as what it claims to be.
        FatalError: the queue cannot be reached, or is not there.
    """
    if not is_queue(spec):
        yield Input(await open_rows(config, spec, notify))
        return
    async with (
        open_queue(spec, environ, notify=notify) as queue,
        QueueSource(
            queue,
            limit=config.limits.workers,
            until_empty=config.source.until_empty,
            idle=config.source.idle,
            id_at=config.source.id_at,
            max_outage=config.limits.max_outage,
            notify=notify,
            utc_now=utc_now,
            rng=Random(),
        ).alive() as source,
    ):
        yield Input(source, queue)


async def open_rows(config: Config, spec: str, notify: Listener) -> Source:
    """The file, or standard input, that `spec` names. What a person should know of how it is read is told to `notify`.

    Raises:
        UsageError: there is none, or it cannot be read as what it claims to be.
    """
    keys = KeyTemplate.parse(config.destination.key, config.source.date_format)
    locks = [config.destination.lock_column] if config.destination.lock_column else []
    return await anyio.to_thread.run_sync(
        partial(
            open_source,
            spec,
            format=config.source.format,
            column=config.source.column,
            encoding=config.source.encoding,
            needed=[*keys.columns, *locks],
            tell=lambda message: notify(Note("warning", message)),
        )
    )
