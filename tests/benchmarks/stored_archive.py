"""An archive in which everything is stored already, made without downloading: tiny objects and true manifest rows."""

import argparse
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import anyio

from bulkfetch.errors import ExitCode
from bulkfetch.manifest import ManifestWriter
from bulkfetch.models import Counts, Outcome, Row, RunResult, utc_iso

KEY = "{id[:2]}/{id}.pdf"
CONTENT = b"%PDF-1.7\n1 0 obj<<>>endobj\nstartxref\n0\n%%EOF\n"
ROWS_AT_ONCE = 5_000
_PRIME = 39_916_801


def invoice_ids(count: int) -> Iterator[str]:
    """Different IDs that spread over the directories of `KEY`."""
    return (f"{number * _PRIME % 100_000_000:08d}" for number in range(count))


async def _make(root: Path, count: int) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    now = utc_iso(datetime.now(UTC))
    async with ManifestWriter.open(root, clock=lambda: datetime.now(UTC)) as manifest:
        ids = invoice_ids(count)
        while batch := list(islice(ids, ROWS_AT_ONCE)):
            rows = [
                Row(
                    run=manifest.run,
                    invoice_id=invoice_id,
                    outcome=Outcome.STORED,
                    key=f"{invoice_id[:2]}/{invoice_id}.pdf",
                    size=len(CONTENT),
                    sha256=sha256,
                    started_at=now,
                    finished_at=now,
                )
                for invoice_id in batch
            ]
            await anyio.to_thread.run_sync(_write_objects, root, [row.key for row in rows if row.key])
            await manifest.append(rows)
        await manifest.finish(
            RunResult(
                exit_code=ExitCode.COMPLETE,
                finished=True,
                complete=True,
                stopped_by=None,
                started_at=now,
                finished_at=now,
                seconds=0.0,
                counts=Counts(read=count, stored=count),
                reasons={},
                bytes_stored=count * len(CONTENT),
                requests={},
                source="benchmark",
                input_sha256=None,
                input_bytes=None,
                destination=str(root),
                versions={},
            )
        )


def _write_objects(root: Path, keys: list[str]) -> None:
    for key in keys:
        path = root / key
        try:
            path.write_bytes(CONTENT)
        except FileNotFoundError:
            path.parent.mkdir()
            path.write_bytes(CONTENT)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("root", type=Path)
    arguments.add_argument("count", type=int)
    given = arguments.parse_args()
    anyio.run(_make, given.root, given.count)
