"""`bulkfetch status`: the morning in one screen."""

import os
from pathlib import Path

import click
import msgspec

from bulkfetch.cli.options import config_flags, configuration, destination


@click.command("status")
@click.argument("dest", required=False)
@config_flags()
@click.option("--source", metavar="NAME", help="Only what runs of this source are about, as the screen calls it.")
@click.option("--json", "as_json", is_flag=True, help="Write the status to stdout as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context, dest: str | None, config_file: Path | None, *, source: str | None, as_json: bool
) -> int:
    """Show how the archive DEST is: the last run, what is unresolved and since when, accepted gaps, and runs at work.

    Only manifests are read, and nothing is changed or held up. The exit code is 6 if the last verification found damage
    that is not mended; else 5 if the newest run stopped early; else 3 or 4 if something is unresolved, as after a run.
    """
    config = configuration(ctx, os.environ, config_file)
    archive = msgspec.structs.replace(config.destination, url=dest or destination(config))

    from bulkfetch.app.status import archive_status
    from bulkfetch.cli.status_screen import print_status

    config = msgspec.structs.replace(config, destination=archive)
    status = archive_status(config, source=source, environ=os.environ)
    print_status(status, to_json=as_json)
    return status.exit_code
