"""What the commands of `bulkfetch queue` print."""

import sys
from collections.abc import Callable, Sequence

from bulkfetch.app.queue import Pushed
from bulkfetch.cli.output import as_json, emit, print_manifests_only, print_not_rows, print_numbers, print_problems
from bulkfetch.models import DeadLetter, QueueStats
from bulkfetch.text import printable


def print_pushed(pushed: Pushed, *, to_json: bool) -> None:
    """Print what became of the rows, on stdout."""
    if to_json:
        emit(sys.stdout, as_json(pushed))
        return
    print_numbers(
        {
            "rows": pushed.read,
            "queued": pushed.queued,
            "already queued": pushed.already_queued,
            "already stored": pushed.already_stored,
            "accepted gaps": pushed.accepted,
            "duplicates": pushed.duplicates,
            "rejected": pushed.rejected,
        }
    )
    print_not_rows(pushed.not_rows)
    if pushed.manifests_only:
        print_manifests_only()
    print_problems(pushed.problems)
    if pushed.shortfall:
        emit(sys.stderr, f"bulkfetch: {pushed.shortfall}")


def print_stats(stats: QueueStats, *, to_json: bool) -> None:
    """Print how much there is in the queue, on stdout."""
    if to_json:
        emit(sys.stdout, as_json(stats))
    else:
        print_numbers({"waiting": stats.waiting, "in work": stats.leased, "dead letters": stats.dead})


def dead_letter_printer(*, to_json: bool) -> Callable[[DeadLetter], None]:
    """What prints a dead letter as one line on stdout."""

    def as_text(dead_letter: DeadLetter) -> str:
        times = f"{dead_letter.deliveries} {'delivery' if dead_letter.deliveries == 1 else 'deliveries'}"
        which = f"{dead_letter.failed_at}  {dead_letter.invoice_id}  {dead_letter.reason}"
        return printable(f"{which}  {times}  {dead_letter.message or ''}", 1000)

    write = as_json if to_json else as_text
    return lambda dead_letter: emit(sys.stdout, write(dead_letter))


def print_resolved(what: str, count: int, missing: Sequence[str]) -> None:
    """Print what was done with how many dead letters, and which IDs are `missing` among them."""
    print_numbers({what: count})
    if missing:
        emit(sys.stderr, f"bulkfetch: not among the dead letters: {printable(', '.join(missing), 1000)}")
