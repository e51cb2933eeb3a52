"""How a run ended: whether it is complete, and the exit code that says so."""

from bulkfetch.app.open_input import Input
from bulkfetch.app.shortfall import shortfall_of
from bulkfetch.config import SourceConfig
from bulkfetch.errors import BulkfetchError, ExitCode, FatalError, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.interfaces import Queue, Source
from bulkfetch.manifest import ManifestWriter
from bulkfetch.pipeline.stop import Interrupted
from bulkfetch.pipeline.tally import Tally
from bulkfetch.retrying import persisting

LAST_LOOK = 30.0
"""Seconds for which a drained queue is asked for its dead letters. After that the run cannot say that all is well."""


async def find_shortfall(wanted: SourceConfig, opened: Input, manifest: ManifestWriter, notify: Listener) -> str | None:
    """What speaks against "complete" beside the run's own rows, in words; None if nothing does.

    That is a number of invoices other than the one that is `wanted`, or dead letters in the queue, whichever worker
    gave them up. From a queue, the invoices count that all its workers have accounted for since it was last drained.

    Raises:
        FatalError: it cannot be found out.
    """
    read = opened.source.handed_out - opened.source.returned
    if wanted.expect and opened.queue is not None:
        read = await manifest.distinct_since_drain(opened.source.name, read)
    missing = shortfall_of(wanted, read, of_queue=opened.queue is not None)
    problems = [missing] if missing else []
    if opened.queue is not None and (dead := await _dead(opened.queue)):
        problems.append("the queue has 1 dead letter" if dead == 1 else f"the queue has {dead} dead letters")
    if not problems:
        return None
    notify(Note("error", "; ".join(problems)))
    return "; ".join(problems)


async def _dead(queue: Queue) -> int:
    try:
        return (await persisting(queue.stats, LAST_LOOK)).dead
    except TransientError as error:
        raise FatalError(f"whether there are dead letters is not known: {error}") from error


def verdict_on(
    tally: Tally, source: Source, cause: BulkfetchError | None, shortfall: str | None
) -> tuple[ExitCode, str | None]:
    """The exit code and, where the run did not simply finish, why it ended."""
    counts = tally.counts(source)
    if not counts.balanced():
        return ExitCode.BUG, f"the counts do not add up: {counts}"
    if isinstance(cause, FatalError | Interrupted):
        return cause.exit_code, str(cause)
    if not tally.finished(source):
        return ExitCode.BUG, "rows of the input have no outcome, and nothing stopped the run"
    if tally.retryable_failures:
        return ExitCode.FAILED_RETRYABLE, shortfall
    if counts.failed or counts.rejected or shortfall:
        return ExitCode.FAILED, shortfall
    return ExitCode.COMPLETE, None
