"""`bulkfetch run`: the main job."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkfetch.cli.conduct import conduct, output_options
from bulkfetch.cli.options import config_flags, configuration, destination, refuse_without_effect, take_token

if TYPE_CHECKING:
    from bulkfetch.cli.supervised_run import Job
    from bulkfetch.models import Summary
    from bulkfetch.pipeline.stop import Stop


@click.command("run", epilog="The token comes from BULKFETCH_TOKEN, api.token_file or api.token_command.")
@click.argument("source")
@config_flags(
    "destination.url",
    "destination.key",
    "destination.share",
    "destination.wait_lock",
    "source.format",
    "source.column",
    "source.encoding",
    "source.allow_empty",
    "source.expect",
    "source.limit",
    "source.until_empty",
    "source.idle",
    "api.url",
    "api.rate",
    "api.link_seconds",
    "limits.workers",
    "limits.max_size",
    "limits.max_failed_ratio",
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
    source: str,
    config_file: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    verbose: int,
    log_format: str,
) -> int:
    """Archive every invoice that SOURCE names.

    SOURCE is a .txt, .csv or .jsonl file, each also as .gz, - for standard input, or a queue that other workers may
    share, nats://host:4222/stream or sqs://name. The same command again goes on where the last one ended: what is
    stored is not fetched again, what failed is tried again.
    """
    config = configuration(ctx, os.environ, config_file)
    destination(config)
    refuse_without_effect(ctx, source)

    from bulkfetch.app import archive

    def job(stop: "Stop") -> "Job[Summary]":
        return partial(archive, config, source, token=take_token(os.environ), environ=os.environ, stop=stop)

    return conduct(config, job, as_json=as_json, quiet=quiet, verbose=verbose, log_format=log_format)
