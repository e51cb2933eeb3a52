"""`bulkfetch retry`: what is unresolved, again."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bulkfetch.cli.conduct import conduct, output_options
from bulkfetch.cli.options import config_flags, configuration, destination, is_given, take_token
from bulkfetch.errors import ExitCode, Reason

if TYPE_CHECKING:
    from bulkfetch.cli.supervised_run import Job
    from bulkfetch.models import Summary
    from bulkfetch.pipeline.stop import Stop


@click.command("retry", epilog="The token comes from BULKFETCH_TOKEN, api.token_file or api.token_command.")
@click.argument("dest", required=False)
@click.option(
    "--reason",
    "reasons",
    type=click.Choice([str(reason) for reason in Reason]),
    metavar="REASON",
    multiple=True,
    help="Only what failed for this; repeatable.",
)
@click.option("--run", "run_id", metavar="RUN", help="Only what failed in this run, and in none since.")
@click.option("--dry-run", is_flag=True, help="Show what would be tried; calls nothing, changes nothing.")
@config_flags(
    "destination.key",
    "destination.share",
    "destination.wait_lock",
    "source.limit",
    "api.url",
    "api.rate",
    "api.link_seconds",
    "limits.workers",
    "limits.max_size",
    "limits.max_duration",
    "limits.until",
    "retry.attempts",
    "timeouts.drain",
    "service.health_addr",
)
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    dest: str | None,
    config_file: Path | None,
    *,
    reasons: Sequence[str],
    run_id: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
    log_format: str,
) -> int:
    """Try again what is unresolved in the archive DEST, whatever run or source it comes from.

    No list is needed: the manifests name the invoices, with the columns that the list had. Rows without a usable ID are
    in no retry: mend them in the list. Exit codes are those of a run; 0 if nothing is unresolved.
    """
    config = configuration(ctx, os.environ, config_file)
    url = dest or destination(config)
    config = msgspec.structs.replace(config, destination=msgspec.structs.replace(config.destination, url=url))

    from bulkfetch.app.retry import Chosen, plan_retry, retry_archive
    from bulkfetch.cli.status_screen import print_retry_plan
    from bulkfetch.manifest.runs import check_run_id

    chosen = Chosen(frozenset(reasons), run_id and check_run_id(run_id))
    if dry_run:
        print_retry_plan(plan_retry(config, chosen, environ=os.environ), to_json=as_json)
        return ExitCode.COMPLETE
    any_key = is_given(ctx, "destination.key")

    def job(stop: "Stop") -> "Job[Summary | None]":
        return partial(
            retry_archive, config, chosen, any_key=any_key, token=take_token(os.environ), environ=os.environ, stop=stop
        )

    return conduct(config, job, as_json=as_json, quiet=quiet, verbose=verbose, log_format=log_format)
