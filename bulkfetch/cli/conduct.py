"""How a run is conducted from the command line: what it shows, where its rows go, and how it ends."""

import gc
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bulkfetch.config import Config
from bulkfetch.errors import ExitCode

if TYPE_CHECKING:
    from bulkfetch.cli.supervised_run import Job
    from bulkfetch.models import Summary
    from bulkfetch.pipeline.stop import Stop

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def output_options(function: Decorated) -> Decorated:
    """Give a command the options that `conduct` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="Write each manifest row to stdout, as a line of JSON."),
    click.option("-q", "--quiet", is_flag=True, help="No progress; a summary only if something is missing."),
    click.option("-v", "--verbose", count=True, help="Tell retries and pauses; twice: every invoice."),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Form of what stderr gets.",
    ),
)


def conduct(
    config: Config,
    job: "Callable[[Stop], Job[Summary | None]]",
    *,
    as_json: bool,
    quiet: bool,
    verbose: int,
    log_format: str,
) -> int:
    """Make the run that `job` gives for what stops it, show it, and return its exit code: 0 if there was nothing to do.

    Raises:
        UsageError, FatalError: as the run.
    """
    import anyio

    from bulkfetch.cli.fd_limit import raise_fd_limit
    from bulkfetch.cli.json_rows import JsonRows
    from bulkfetch.cli.progress import display
    from bulkfetch.cli.streams import relayed_stderr, wait_for_readers
    from bulkfetch.cli.summary import print_loss, print_nothing_to_do, print_summary
    from bulkfetch.cli.supervised_run import run_supervised
    from bulkfetch.pipeline.stop import Stop

    raise_fd_limit(config.limits.workers)
    # What is imported by now stays: no need to look through it again and again.
    gc.freeze()
    stop, rows = Stop(), JsonRows()
    with relayed_stderr() as all_told:
        try:
            with display(log_format=log_format, verbosity=-1 if quiet else verbose, rows_to_stdout=as_json) as watching:
                listeners = [*watching, *([rows] if as_json else [])]
                run = partial(run_supervised, config, job(stop), environ=os.environ, stop=stop, listeners=listeners)
                summary = anyio.run(run)
            wait_for_readers(lambda: rows.idle, stop.deadline(config.timeouts.drain))
            if as_json and (loss := rows.loss()):
                print_loss(loss, log_format)
            if summary is None:
                print_nothing_to_do(log_format, quiet=quiet)
            elif not quiet or summary.exit_code:
                print_summary(summary, log_format)
        finally:
            wait_for_readers(all_told, stop.deadline(config.timeouts.drain))
    return summary.exit_code if summary is not None else ExitCode.COMPLETE
