"""`bulkfetch plan`: what a run would do."""

import gc
import os
from pathlib import Path

import click

from bulkfetch.cli.options import config_flags, configuration, destination
from bulkfetch.errors import ExitCode


@click.command("plan")
@click.argument("source")
@config_flags(
    "destination.url",
    "destination.key",
    "source.format",
    "source.column",
    "source.encoding",
    "source.allow_empty",
    "api.rate",
)
@click.option(
    "--show-keys",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Show the keys that the first N new invoices would get.  [default: 0]",
)
@click.option("--json", "as_json", is_flag=True, help="Write the plan to stdout as one JSON object.")
@click.pass_context
def command(ctx: click.Context, source: str, config_file: Path | None, *, show_keys: int, as_json: bool) -> int:
    """Show what a run over SOURCE would do. Nothing is called, and nothing is written.

    The exit code is 3 if rows of SOURCE would be rejected, or there is none.
    """
    config = configuration(ctx, os.environ, config_file)
    destination(config)

    from bulkfetch.app import plan_archive
    from bulkfetch.cli.log import tell
    from bulkfetch.cli.output import print_plan
    from bulkfetch.cli.plan_progress import plan_progress

    # What is imported by now stays: no need to look through it again and again.
    gc.freeze()
    with plan_progress() as progress:
        plan = plan_archive(
            config, source=source, environ=os.environ, show_keys=show_keys, progress=progress, notify=tell
        )
    print_plan(plan, to_json=as_json)
    return ExitCode.FAILED if plan.rejected or plan.shortfall else ExitCode.COMPLETE
