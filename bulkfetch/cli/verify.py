"""`bulkfetch verify`: read the archive back."""

import gc
import os
import re
from pathlib import Path

import click
import msgspec

from bulkfetch.cli.options import config_flags, configuration, destination
from bulkfetch.errors import ExitCode, UsageError


def _share(ctx: click.Context, param: click.Parameter, value: str | None) -> float:  # noqa: ARG001 - click's signature
    if value is None:
        return 1.0
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", value, re.ASCII)
    if match is None or not 0 < float(match[1]) <= 100:
        raise click.BadParameter("a share is written 5%, above 0% and up to 100%")
    return float(match[1]) / 100


def _subset(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int]:  # noqa: ARG001 - as above
    if value is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter("a subset is written n/t, such as 3/7")
    return int(match[1]), int(match[2])


def _heads(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001 - as above
    if not all(re.fullmatch(r"[0-9a-fA-F]{64}", each, re.ASCII) for each in value):
        raise click.BadParameter("a head is the SHA-256 that a run printed, 64 digits in hex")
    return value


@click.command("verify")
@click.argument("dest", required=False)
@config_flags("destination.wait_lock", "source.format", "source.column", "source.encoding", "limits.workers")
@click.option("--quick", is_flag=True, help="Look at presence and size alone; read no object.")
@click.option("--sample", metavar="SHARE", callback=_share, help="Read a random share of the objects, such as 5%.")
@click.option("--subset", metavar="N/T", callback=_subset, help="Read part N of T: T nights read everything.")
@click.option("--head", "heads", metavar="SHA256", multiple=True, callback=_heads, help="The head that a run printed.")
@click.option("--ids", metavar="SOURCE", help="Prove that each invoice of this list is archived; look at no others.")
@click.option("--download", is_flag=True, help="Read objects of a bucket though the store knows their SHA-256.")
@click.option("--set-aside", is_flag=True, help="Move what no row names to quarantine.")
@click.option("--json", "to_json", is_flag=True, help="Write findings to stdout, a line each; the outcome is the last.")
@click.pass_context
def command(
    ctx: click.Context,
    dest: str | None,
    config_file: Path | None,
    *,
    quick: bool,
    sample: float,
    subset: tuple[int, int],
    heads: tuple[str, ...],
    ids: str | None,
    download: bool,
    set_aside: bool,
    to_json: bool,
) -> int:
    """Read the archive DEST back: is each object there, and what its rows say, and is there anything else?

    Manifests and summaries are checked by the chain that seals them. What was found is kept in the archive. The exit
    code is 6 if anything is missing, damaged, extra or broken in the chain.
    """
    if quick + (sample < 1) + (subset[1] > 1) > 1:
        raise UsageError("--quick, --sample and --subset are three ways to look at less: choose one")
    if ids is not None and set_aside:
        raise UsageError("--set-aside needs the whole archive looked at; leave out --ids")
    if ids is not None and "://" in ids:
        raise UsageError("--ids reads a file, or standard input (-)")
    config = configuration(ctx, os.environ, config_file)
    settings = msgspec.structs.replace(config.destination, url=dest or destination(config))
    config = msgspec.structs.replace(config, destination=settings)

    from bulkfetch.app.verify import Wanted, verify_archive
    from bulkfetch.app.verify_objects import Choice
    from bulkfetch.cli.log import tell
    from bulkfetch.cli.verify_output import FindingsShown, print_verification, verify_progress

    # What is imported by now stays: no need to look through it again and again.
    gc.freeze()
    choice = Choice(quick=quick, share=sample, part=subset[0], parts=subset[1])
    wanted = Wanted(choice=choice, ids=ids, heads=heads, download=download, set_aside=set_aside)
    shown = FindingsShown(to_json=to_json)
    with verify_progress() as progress:
        verification = verify_archive(config, wanted, environ=os.environ, tell=shown, progress=progress, notify=tell)
    print_verification(verification, to_json=to_json)
    return ExitCode.VERIFY_FAILED if verification.errors else ExitCode.COMPLETE
