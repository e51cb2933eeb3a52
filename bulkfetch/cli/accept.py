"""`bulkfetch accept`: gaps that somebody takes responsibility for."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bulkfetch.cli.options import config_flags, configuration
from bulkfetch.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from bulkfetch.app.accept import Accepted

_NAMED = 10


@click.command("accept")
@click.argument("dest")
@click.argument("invoice_ids", metavar="[ID]...", nargs=-1)
@click.option("--reason", metavar="TEXT", default="", help="Why; needed unless it is withdrawn.")
@click.option("--from", "file", metavar="FILE", help="Also the IDs in this file: .txt, .csv or .jsonl, as for run.")
@click.option("--rejected", metavar="RUN", help="Also the rows without a usable ID that this run rejected.")
@click.option("--withdraw", is_flag=True, help="Take it back: from the next run on they are asked for again.")
@config_flags("source.format", "source.column", "source.encoding")
@click.option("--json", "as_json", is_flag=True, help="Write what was recorded to stdout as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    dest: str,
    invoice_ids: Sequence[str],
    config_file: Path | None,
    *,
    reason: str,
    file: str | None,
    rejected: str | None,
    withdraw: bool,
    as_json: bool,
) -> int:
    """Record in the archive DEST that the invoices of these IDs will not come, and why.

    From the next run on they are skipped and keep no run from being complete; every report names them. What is stored
    is no gap, and what is stored later is none any more. This needs no lock: runs may be at work. The exit code is 3 if
    an ID is stored already, or was not accepted and is to be withdrawn.
    """
    if not (invoice_ids or file or rejected):
        raise UsageError("no invoice is meant: name invoice IDs, --from FILE, or --rejected RUN")
    if not (reason.strip() or withdraw):
        raise UsageError("say why they will not come: add --reason TEXT")
    config = configuration(ctx, os.environ, config_file)
    config = msgspec.structs.replace(config, destination=msgspec.structs.replace(config.destination, url=dest))

    from bulkfetch.app.accept import Word, accept_invoices, read_ids
    from bulkfetch.cli.log import tell

    ids = [*invoice_ids, *(read_ids(config, file, tell) if file else [])]
    word = Word(ids, rejected, reason.strip(), withdraw=withdraw)
    done = accept_invoices(config, word, environ=os.environ)
    print_accepted(done, withdraw=withdraw, to_json=as_json)
    return ExitCode.FAILED if done.stored or done.not_accepted else ExitCode.COMPLETE


def print_accepted(done: "Accepted", *, withdraw: bool, to_json: bool) -> None:
    """Print on stdout what is recorded now, and on stderr what a person should look at."""
    from bulkfetch.cli.output import as_json, emit, print_numbers
    from bulkfetch.text import printable

    if to_json:
        emit(sys.stdout, as_json(done))
    else:
        print_numbers({"withdrawn" if withdraw else "accepted": done.recorded})
    for problem, ids in (
        ("not recorded, as it is stored", done.stored),
        ("not accepted before", done.not_accepted),
        ("recorded, but no run has met this ID", done.unknown),
    ):
        if ids:
            more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
            emit(sys.stderr, f"bulkfetch: {problem}: {printable(', '.join(ids[:_NAMED]), 1000)}{more}")
