"""`bulkfetch queue`: feeding a queue, and looking after what its workers gave up."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

import anyio
import msgspec

from bulkfetch.app.open_archive import is_bucket
from bulkfetch.app.open_input import open_rows
from bulkfetch.app.outside import with_way_out
from bulkfetch.app.sorted_input import InputCounts, open_triage
from bulkfetch.config import Config
from bulkfetch.errors import FatalError, TransientError
from bulkfetch.events import Listener
from bulkfetch.models import DeadLetter, QueueStats
from bulkfetch.queues import open_queue
from bulkfetch.retrying import persisting
from bulkfetch.sources.queue.message import encode_message

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@dataclass(slots=True, kw_only=True)
class Pushed(InputCounts):
    """What became of an input's rows, in numbers.

    `queued` are new in the queue, `already_queued` waited there or were in a worker's hands.
    """

    queued: int = 0
    already_queued: int = 0


def _run(command: Callable[[Unpack[Arguments]], Awaitable[T]], *args: *Arguments) -> T:
    """Run `command`, and end it when the broker does not answer: a person is waiting."""
    try:
        return anyio.run(command, *args)
    except TransientError as error:
        raise FatalError(str(error)) from None


def push_invoices(
    config: Config, *, source: str, queue: str, skip_done: str, environ: Mapping[str, str], notify: Listener
) -> Pushed:
    """Queue every invoice that `source` names; those that the archive `skip_done` holds are left out, and those for
    which no key can be made.

    `environ` holds the credentials for queue and archive, here and in the other functions of this module.

    A push that was cut off is made again whole: what is queued already is not queued twice, as far as the engine can
    tell (SQS cannot; there `skip_done` keeps what is done from being asked for again).

    Raises:
        UsageError: source, queue or archive cannot be used.
        FatalError: the queue cannot be reached, or refuses; a manifest is damaged.
    """
    return _run(_push, config, source, queue, skip_done, with_way_out(environ, config.api), notify)


async def _push(
    config: Config, source: str, url: str, skip_done: str, environ: Mapping[str, str], notify: Listener
) -> Pushed:
    rows = await open_rows(config, source, notify)
    pushed = Pushed(manifests_only=is_bucket(skip_done))
    archive = msgspec.structs.replace(config.destination, url=skip_done)
    async with (
        open_triage(archive, environ, date_format=config.source.date_format) as (triage, _),
        open_queue(url, environ, notify=notify, create=True) as queue,
    ):
        async for batch in rows.batches():
            sorted_ = await triage.sort(batch)
            pushed.add(sorted_)
            messages = [(row.invoice_id, encode_message(row)) for row, _, _ in sorted_.to_fetch]
            put = partial(queue.put, messages)
            new = await persisting(put, config.limits.max_outage) if messages else 0
            pushed.queued += new
            pushed.already_queued += len(messages) - new
    pushed.end(rows, config.source)
    return pushed


def queue_stats(queue: str, *, environ: Mapping[str, str], notify: Listener) -> QueueStats:
    """How much there is in `queue`.

    Raises:
        UsageError, FatalError: the queue cannot be reached, is not there, or does not answer.
    """

    async def ask() -> QueueStats:
        async with open_queue(queue, environ, notify=notify) as opened:
            return await opened.stats()

    return _run(ask)


def list_dead_letters(
    queue: str, each: Callable[[DeadLetter], None], *, environ: Mapping[str, str], notify: Listener
) -> None:
    """Call `each` for every dead letter of `queue`, oldest first; none is taken away.

    Raises:
        UsageError, FatalError: as in `queue_stats`.
    """

    async def read() -> None:
        async with open_queue(queue, environ, notify=notify) as opened:
            async for dead_letter in opened.dead_letters():
                each(dead_letter)

    _run(read)


def resolve_dead_letters(
    queue: str, wanted: Callable[[DeadLetter], bool], *, requeue: bool, environ: Mapping[str, str], notify: Listener
) -> list[str]:
    """Queue every dead letter that is `wanted` once more if `requeue` is set, or else remove it; their invoices' IDs.

    Raises:
        UsageError, FatalError: as in `queue_stats`.
    """

    async def resolve() -> list[str]:
        async with open_queue(queue, environ, notify=notify) as opened:
            done = []
            async for dead_letter in opened.dead_letters():
                if wanted(dead_letter):
                    await (opened.requeue(dead_letter) if requeue else opened.forget(dead_letter))
                    done.append(dead_letter.invoice_id)
            return done

    return _run(resolve)
