"""`bulkfetch export`: what an archive holds, for other programs."""

import codecs
import os
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bulkfetch.cli.options import config_flags, configuration
from bulkfetch.errors import ExitCode


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click's signature
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter("a moment is written 2025-01-31 or 2025-01-31T12:00:00+01:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encoding(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001 - as above
    try:
        return codecs.lookup(value).name
    except LookupError:
        raise click.BadParameter("no such encoding; try utf-8, utf-8-sig (for Excel) or windows-1252") from None


def _delimiter(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001 - as above
    value = "\t" if value in ("tab", "\\t") else value
    if len(value) != 1 or value in '"\r\n':
        raise click.BadParameter("one character, such as ; or tab")
    return value


@click.command("export")
@click.argument("dest")
@click.argument("file", type=click.Path(path_type=Path))
@config_flags()
@click.option("--all-rows", is_flag=True, help="Every row of every run, not the one that counts for each invoice.")
@click.option("--run", metavar="RUN", help="The rows of this run alone.")
@click.option("--since", metavar="TIME", callback=_since, help="Nothing older, such as 2025-01-31 (UTC).")
@click.option("--columns", metavar="NAMES", default="", help="Of a .csv: invoice_id,key,fields.number and so on.")
@click.option("--delimiter", metavar="CHAR", default=",", show_default=True, callback=_delimiter, help="Of a .csv.")
@click.option("--encoding", default="utf-8", show_default=True, callback=_encoding, help="Of a .csv or .jsonl.")
@click.pass_context
def command(
    ctx: click.Context,
    dest: str,
    file: Path,
    config_file: Path | None,
    *,
    all_rows: bool,
    run: str | None,
    since: str | None,
    columns: str,
    delimiter: str,
    encoding: str,
) -> int:
    """Write what the archive DEST holds to FILE, one row an invoice: .csv, .jsonl, or a directory for a BagIt bag."""
    config = configuration(ctx, os.environ, config_file)

    from bulkfetch.app.export import Wanted, export_archive

    wanted = Wanted(
        all_rows=all_rows,
        run=run,
        since=since,
        columns=[name.strip() for name in columns.split(",") if name.strip()],
        delimiter=delimiter,
        encoding=encoding,
    )
    archive = msgspec.structs.replace(config.destination, url=dest)
    number = export_archive(msgspec.structs.replace(config, destination=archive), file, wanted, os.environ)
    click.echo(f"{number:,} {'rows' if file.suffix else 'objects'} in {file}", err=True)
    return ExitCode.COMPLETE
