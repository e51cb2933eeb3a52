"""`bulkfetch check`: the pre-flight test."""

import os
from pathlib import Path

import click

from bulkfetch.cli.options import config_flags, configuration, take_token
from bulkfetch.errors import ExitCode


@click.command("check", epilog="The token comes from BULKFETCH_TOKEN, api.token_file or api.token_command.")
@config_flags("destination.url", "api.url")
@click.option("--probe", metavar="ID", help="Ask for a link to invoice ID and read the first bytes behind it.")
@click.option("--queue", metavar="URL", help="Look at this queue, too: nats://host:4222/stream or sqs://name.")
@click.pass_context
def command(ctx: click.Context, config_file: Path | None, probe: str | None, queue: str | None) -> int:
    """Test what a run needs: configuration, token, API, destination, and a queue if there is to be one.

    The exit code is 5 if a test fails.
    """
    config = configuration(ctx, os.environ, config_file)

    from bulkfetch.app import check_setup
    from bulkfetch.cli.output import print_checks

    results = check_setup(config, token=take_token(os.environ), environ=os.environ, probe=probe, queue=queue)
    print_checks(results)
    return ExitCode.STOPPED if any(result.ok is False for result in results) else ExitCode.COMPLETE
