"""`bulkfetch run`: the main job."""

import gc
import os
from functools import partial
from pathlib import Path

import click

from bulkfetch.cli.options import config_flags, configuration, destination, refuse_without_effect, take_token


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
@click.option("--json", "as_json", is_flag=True, help="Write each manifest row to stdout, as a line of JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; a summary only if something is missing.")
@click.option("-v", "--verbose", count=True, help="Tell retries and pauses; twice: every invoice.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of what stderr gets.",
)
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

    import anyio

    from bulkfetch.cli.fd_limit import raise_fd_limit
    from bulkfetch.cli.json_rows import JsonRows
    from bulkfetch.cli.progress import display
    from bulkfetch.cli.streams import relayed_stderr, wait_for_readers
    from bulkfetch.cli.summary import print_loss, print_summary
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
                token = take_token(os.environ)
                run = partial(
                    run_supervised, config, source, token=token, environ=os.environ, stop=stop, listeners=listeners
                )
                summary = anyio.run(run)
            wait_for_readers(lambda: rows.idle, stop.deadline(config.timeouts.drain))
            if as_json and (loss := rows.loss()):
                print_loss(loss, log_format)
            if not quiet or summary.exit_code:
                print_summary(summary, log_format)
        finally:
            wait_for_readers(all_told, stop.deadline(config.timeouts.drain))
    return summary.exit_code
