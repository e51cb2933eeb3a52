"""`bulkfetch queue`: feed and look at the queue that workers share."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from bulkfetch.cli.group import CommandGroup
from bulkfetch.cli.options import config_flags, configuration
from bulkfetch.errors import ExitCode, Reason, UsageError

if TYPE_CHECKING:
    from bulkfetch.models import DeadLetter

COMMANDS = {
    "push": ("bulkfetch.cli.queue:push", "Queue every invoice that SOURCE names."),
    "status": ("bulkfetch.cli.queue:status", "Show how much there is to do, in work, and given up."),
    "dead": ("bulkfetch.cli.queue:dead", "List the invoices that were given up, and why."),
    "requeue": ("bulkfetch.cli.queue:requeue", "Queue dead letters once more."),
    "forget": ("bulkfetch.cli.queue:forget", "Remove dead letters for good."),
}

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

command = CommandGroup(
    "queue",
    COMMANDS,
    help="Feed and look at the queue that workers share: NATS JetStream (nats://host:4222/stream) or Amazon SQS "
    "(sqs://name). Credentials come from NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD, or from "
    "the AWS_ variables; never from the URL.",
)


def _queue_option(function: Decorated) -> Decorated:
    option = click.option("--queue", "url", metavar="URL", required=True, help="nats://host:4222/stream or sqs://name.")
    return option(function)


def _json_option(function: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")(function)


@click.command("push")
@click.argument("source")
@_queue_option
@click.option("--skip-done", metavar="DEST", default="", help="Leave out what the archive DEST holds.")
@config_flags(
    "destination.key",
    "source.format",
    "source.column",
    "source.encoding",
    "source.allow_empty",
    "source.expect",
)
@_json_option
@click.pass_context
def push(ctx: click.Context, source: str, url: str, skip_done: str, config_file: Path | None, *, as_json: bool) -> int:
    """Queue every invoice that SOURCE names, and make the queue where it is missing.

    An invoice that is queued already, or in a worker's hands, is not queued twice (SQS cannot tell), so a push that was
    cut off is simply made again. A row for which the workers could make no key (--key, as they are given it) is
    rejected here already. The exit code is 3 if rows were rejected, or not as many came as were expected.
    """
    config = configuration(ctx, os.environ, config_file)

    from bulkfetch.app.queue import push_invoices
    from bulkfetch.cli.log import tell
    from bulkfetch.cli.queue_output import print_pushed

    pushed = push_invoices(config, source=source, queue=url, skip_done=skip_done, environ=os.environ, notify=tell)
    print_pushed(pushed, to_json=as_json)
    return ExitCode.FAILED if pushed.rejected or pushed.shortfall else ExitCode.COMPLETE


@click.command("status")
@_queue_option
@_json_option
def status(url: str, *, as_json: bool) -> None:
    """Show how many invoices wait, are in workers' hands, and were given up."""
    from bulkfetch.app.queue import queue_stats
    from bulkfetch.cli.log import tell
    from bulkfetch.cli.queue_output import print_stats

    print_stats(queue_stats(url, environ=os.environ, notify=tell), to_json=as_json)


@click.command("dead")
@_queue_option
@_json_option
def dead(url: str, *, as_json: bool) -> None:
    """List the dead letters: invoices that failed for good, and those that took down their workers."""
    from bulkfetch.app.queue import list_dead_letters
    from bulkfetch.cli.log import tell
    from bulkfetch.cli.queue_output import dead_letter_printer

    list_dead_letters(url, dead_letter_printer(to_json=as_json), environ=os.environ, notify=tell)


def _chosen(function: Decorated) -> Decorated:
    """Which dead letters a command is for."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All of them."),
        click.option(
            "--reason",
            "reasons",
            type=click.Choice([str(reason) for reason in Reason]),
            metavar="REASON",
            multiple=True,
            help="Those that were given up for this; repeatable.",
        ),
        _queue_option,
        click.argument("invoice_ids", metavar="[ID]...", nargs=-1),
    ):
        function = option(function)
    return function


@click.command("requeue")
@_chosen
def requeue(invoice_ids: Sequence[str], url: str, reasons: Sequence[str], *, everything: bool) -> int:
    """Queue dead letters once more: those of the given IDs, those of a reason, or all.

    The exit code is 3 if one of the IDs is not among them.
    """
    return _resolve(url, invoice_ids, _wanted(invoice_ids, reasons, everything=everything), requeue=True)


@click.command("forget")
@_chosen
@click.option(
    "--accept", "dest", metavar="DEST", help="First record in this archive that their invoices will not come."
)
@click.option("--accept-reason", "why", metavar="TEXT", default="", help="Why they will not come.")
@config_flags()
@click.pass_context
def forget(
    ctx: click.Context,
    invoice_ids: Sequence[str],
    config_file: Path | None,
    url: str,
    reasons: Sequence[str],
    *,
    everything: bool,
    dest: str | None,
    why: str,
) -> int:
    """Remove dead letters for good: those of the given IDs, those of a reason, or all.

    The manifest keeps the rows. With --accept they become accepted gaps of the archive, and keep no run from being
    complete. The exit code is 3 if one of the IDs is not among them.
    """
    if bool(dest) is not bool(why.strip()):
        raise UsageError(
            "--accept DEST and --accept-reason TEXT go together: which archive, and why they will not come"
        )
    wanted = _wanted(invoice_ids, reasons, everything=everything)
    if dest:
        config = configuration(ctx, os.environ, config_file)
        config = msgspec.structs.replace(config, destination=msgspec.structs.replace(config.destination, url=dest))

        from bulkfetch.app.accept import Word, accept_invoices
        from bulkfetch.app.queue import list_dead_letters
        from bulkfetch.cli.accept import print_accepted
        from bulkfetch.cli.log import tell
        from bulkfetch.keys import check_invoice_id

        meant: dict[str, bool] = {}

        def take_note(dead_letter: "DeadLetter") -> None:
            if wanted(dead_letter):
                meant[dead_letter.invoice_id] = check_invoice_id(dead_letter.invoice_id) is None

        list_dead_letters(url, take_note, environ=os.environ, notify=tell)
        word = Word([each for each, usable in meant.items() if usable], None, why.strip(), withdraw=False)
        print_accepted(accept_invoices(config, word, environ=os.environ), withdraw=False, to_json=False)
        # Not those that have come meanwhile: nobody has accepted them.
        return _resolve(url, invoice_ids, lambda dead_letter: dead_letter.invoice_id in meant, requeue=False)
    return _resolve(url, invoice_ids, wanted, requeue=False)


def _wanted(ids: Sequence[str], reasons: Sequence[str], *, everything: bool) -> "Callable[[DeadLetter], bool]":
    if not (ids or reasons or everything):
        raise UsageError("no dead letter is meant: name invoice IDs, --reason REASON, or --all")
    return lambda dead_letter: everything or dead_letter.invoice_id in ids or dead_letter.reason in reasons


def _resolve(url: str, ids: Sequence[str], wanted: "Callable[[DeadLetter], bool]", *, requeue: bool) -> int:
    from bulkfetch.app.queue import resolve_dead_letters
    from bulkfetch.cli.log import tell
    from bulkfetch.cli.queue_output import print_resolved

    done = resolve_dead_letters(url, wanted, requeue=requeue, environ=os.environ, notify=tell)
    missing = sorted(set(ids) - set(done))
    print_resolved("queued again" if requeue else "removed", len(done), missing)
    return ExitCode.FAILED if missing else ExitCode.COMPLETE
