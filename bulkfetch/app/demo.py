"""`bulkfetch demo`: the sandbox and a run against it, on loopback, in one process."""

from collections.abc import Sequence
from pathlib import Path

import anyio

from bulkfetch.app.run import archive
from bulkfetch.config import Api, Config, Destination
from bulkfetch.events import Listener
from bulkfetch.models import Secret, Summary
from bulkfetch.pipeline.stop import Stop
from bulkfetch.sandbox import Faults, SandboxSettings, serve

IDS = "ids.txt"
ARCHIVE = "archive"

FAULTS = Faults(errors=0.03, truncate=0.02, expire=0.02, latency=0.02)
RATE_LIMIT = 100


async def run_demo(directory: Path, *, invoices: int, stop: Stop, listeners: Sequence[Listener] = ()) -> Summary:
    """Write the IDs of `invoices` documents to `directory`/ids.txt and archive them in `directory`/archive.

    The stand-in for the API refuses what is over its rate limit. Of the rest it fails, cuts and expires a few percent.
    `stop` ends the run early and in order.

    Raises:
        OSError: `directory` cannot be written, or no port is free.
        FatalError: as in `archive`.
    """
    settings = SandboxSettings(invoices=invoices, rate_limit=RATE_LIMIT, faults=FAULTS)
    ids = anyio.Path(directory) / IDS
    await ids.parent.mkdir(parents=True, exist_ok=True)
    await ids.write_text("".join(f"{invoice_id}\n" for invoice_id in settings.book().ids()))
    async with serve(settings) as sandbox:
        config = Config(api=Api(url=sandbox.api_url), destination=Destination(url=str(directory / ARCHIVE)))
        return await archive(config, str(ids), token=Secret(sandbox.token), stop=stop, listeners=listeners)
