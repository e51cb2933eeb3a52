"""`bulkfetch sandbox`: rehearse a backfill against a local stand-in for the API."""

import os
import shlex
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkfetch.errors import UsageError

if TYPE_CHECKING:  # the sandbox loads a web server, which `--help` must not wait for
    from bulkfetch.sandbox import Sandbox, SandboxSettings

SHARE = click.FloatRange(0, 1)


@click.command("sandbox")
@click.option("--port", type=click.IntRange(0, 65_535), default=8970, show_default=True, help="API port; 0: any free.")
@click.option("--invoices", type=click.IntRange(1, 10**9), default=1000, show_default=True, help="How many there are.")
@click.option(
    "--ids", "ids_file", type=click.Path(path_type=Path, dir_okay=False), help="Write their IDs to this file."
)
@click.option(
    "--size", type=click.IntRange(0, 100 << 20), default=60 << 10, show_default=True, help="Mean size of a PDF."
)
@click.option("--rate-limit", type=click.FloatRange(0.01, 10**6), help="Links a second; beyond it a 429.")
@click.option("--drafts", type=SHARE, default=0.0, help="Share of documents that are drafts (422).")
@click.option("--not-found", type=SHARE, default=0.0, help="Share of IDs that the API does not know (404).")
@click.option("--errors", type=SHARE, default=0.0, help="Share of requests answered with a 5xx.")
@click.option("--throttle", type=SHARE, default=0.0, help="Share of link requests answered with a 429.")
@click.option("--expire", type=SHARE, default=0.0, help="Share of links that are dead on arrival.")
@click.option("--truncate", type=SHARE, default=0.0, help="Share of downloads cut in the middle.")
@click.option("--not-pdf", type=SHARE, default=0.0, help="Share of downloads that are XML.")
@click.option("--latency", type=click.FloatRange(0, 600), default=0.0, help="Seconds before an answer, +-50 %.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed: other invoices, other faults.")
def command(
    *,
    port: int,
    invoices: int,
    ids_file: Path | None,
    size: int,
    rate_limit: float | None,
    drafts: float,
    seed: int,
    **faults: float,
) -> None:
    """Serve a local stand-in for the billing API, with faults on demand.

    It listens on 127.0.0.1 only, until Ctrl-C. Shares are between 0 (never) and 1 (always). The token it takes is
    BULKFETCH_TOKEN from the environment, else the word "sandbox".
    """
    import anyio

    from bulkfetch.sandbox import PUBLIC_TOKEN, Faults, SandboxSettings

    settings = SandboxSettings(
        invoices=invoices,
        seed=seed,
        size=size,
        drafts=drafts,
        port=port,
        token=os.environ.get("BULKFETCH_TOKEN", "").strip() or PUBLIC_TOKEN,
        rate_limit=rate_limit,
        faults=Faults(**faults),
    )
    if ids_file is not None:
        _write_ids(ids_file, settings)
    anyio.run(_serve_until_signal, settings, ids_file)


def _write_ids(file: Path, settings: "SandboxSettings") -> None:
    """Write the IDs, one a line. A file that begins otherwise is somebody's own list and stays."""
    book = settings.book()
    try:
        if file.exists():
            with file.open("rb") as lines:
                if lines.readline(100).strip() not in (b"", book.invoice_id(0).encode()):
                    raise UsageError(f"{file} holds other IDs than this sandbox's: name another file, or remove it.")
        with file.open("w", encoding="ascii") as lines:
            lines.writelines(f"{invoice_id}\n" for invoice_id in book.ids())
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}.") from error


async def _serve_until_signal(settings: "SandboxSettings", ids_file: Path | None) -> None:
    import anyio

    from bulkfetch.sandbox import serve

    async with AsyncExitStack() as stack:
        signals = stack.enter_context(anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        try:
            sandbox = await stack.enter_async_context(serve(settings))
        except OSError as error:
            raise UsageError(
                f"cannot listen on port {settings.port} ({os.strerror(error.errno or 0)}): --port 0 takes any free one."
            ) from error
        click.echo(_introduction(sandbox, settings, ids_file), err=True)
        async for _ in signals:
            break
    counters = (f"{name.replace('_', ' ')} {count:,}" for name, count in sandbox.stats.totals().items() if count)
    click.echo("Sandbox closed: " + (", ".join(counters) or "nobody called") + ".", err=True)


def _introduction(sandbox: "Sandbox", settings: "SandboxSettings", ids_file: Path | None) -> str:
    """What is served, and what to type next. The user's own token is not shown."""
    from bulkfetch.sandbox import PUBLIC_TOKEN

    public = sandbox.token == PUBLIC_TOKEN
    ids = shlex.quote(str(ids_file)) if ids_file is not None else "ids.txt"
    lines = [
        f"Sandbox: {settings.invoices:,} documents of about {settings.size:,} bytes. Ctrl-C ends it.",
        f"  API    {sandbox.api_url}",
        f"  files  {sandbox.files_url}",
        f"  token  {PUBLIC_TOKEN if public else 'as in BULKFETCH_TOKEN here'}",
        "Next, in another terminal:",
        *([f"  export BULKFETCH_TOKEN={PUBLIC_TOKEN}"] if public else []),
        f"  bulkfetch run {ids} --api-url {sandbox.api_url} --to archive",
    ]
    if ids_file is None:
        lines.append("The IDs are written by --ids ids.txt, which was not given.")
    return "\n".join(lines)
