"""`bulkfetch demo`: the main job, without an account."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkfetch.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from bulkfetch.events import Listener
    from bulkfetch.models import Summary


@click.command("demo")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bulkfetch-demo"),
    show_default=True,
    help="Where the IDs and the archive go.",
)
@click.option("--invoices", type=click.IntRange(1, 100_000), default=400, show_default=True, help="How many documents.")
def command(directory: Path, invoices: int) -> int:
    """Archive some hundred invoices of a stand-in for the API that throttles, fails, and lets links expire.

    Everything happens on this machine. A second demo finds everything stored.
    """
    import anyio

    from bulkfetch.app.demo import ARCHIVE, FAULTS, IDS, RATE_LIMIT
    from bulkfetch.cli.fd_limit import raise_fd_limit
    from bulkfetch.cli.progress import display
    from bulkfetch.cli.summary import print_summary
    from bulkfetch.config import Config

    click.echo(
        f"A sandbox of the billing API on 127.0.0.1: {invoices:,} documents, {RATE_LIMIT} links/s at most, "
        f"{FAULTS.errors:.0%} server errors,\n"
        f"{FAULTS.truncate:.0%} cut downloads, {FAULTS.expire:.0%} expired links.\n",
        err=True,
    )
    raise_fd_limit(Config().limits.workers)
    try:
        with display(log_format="text", verbosity=0, rows_to_stdout=False) as listeners:
            summary = anyio.run(_run, directory, invoices, listeners)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; name another directory with --dir") from None
    print_summary(summary, "text")
    if summary.exit_code == ExitCode.COMPLETE:
        click.echo(_next_steps(directory / ARCHIVE, directory / IDS), err=True)
    return summary.exit_code


async def _run(directory: Path, invoices: int, listeners: "Sequence[Listener]") -> "Summary":
    from bulkfetch.app.demo import run_demo
    from bulkfetch.cli.supervised_run import stopping_on_signals
    from bulkfetch.pipeline.stop import Stop

    stop = Stop()
    with stopping_on_signals(stop) as heeding:
        return await run_demo(directory, invoices=invoices, stop=stop, listeners=[heeding, *listeners])


def _next_steps(archive: Path, ids: Path) -> str:
    to, source = shlex.quote(str(archive)), shlex.quote(str(ids))
    steps = [
        (f"ls {to}", "the PDFs; manifests/ has a row for each line of the input"),
        (shlex.join(["bulkfetch", *sys.argv[1:]]), "again: nothing stored is fetched twice"),
        (f"bulkfetch plan {source} --to {to}", "what a run would do"),
        ("bulkfetch sandbox --help", "rehearse your own backfill"),
        ("bulkfetch run --help", "the real thing"),
    ]
    return "\n".join(["", "Next:", *(f"  # {what}\n  {command}" for command, what in steps)])
