"""Runs of an archive as files: one that died, and one that ended."""

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

from bulkfetch.manifest import encode_rows
from bulkfetch.manifest.chain import write_summary
from bulkfetch.manifest.runs import started_at
from bulkfetch.models import Counts, Outcome, Row, RunResult, Summary, utc_iso

RUNS = ["20250101T000000Z-000001", "20250102T000000Z-000002", "20250103T000000Z-000003"]


def begin(root: Path, run: str) -> bytes:
    """A manifest of two rows, as a run that died would leave it; returns its bytes."""
    for name in ("manifests", ".bulkfetch"):
        (root / name).mkdir(exist_ok=True)
    row = Row(run=run, invoice_id="INV-1", outcome=Outcome.FAILED, started_at="", finished_at="")
    data = encode_rows([row, row])
    (root / "manifests" / f"{run}.jsonl").write_bytes(data)
    return data


def finish(
    root: Path, run: str, *, finished: bool = True, seconds: int = 60, source: str = "ids.txt", shared: bool = False
) -> Summary:
    """Write the manifest and the summary of a run that ended after `seconds`."""
    data = begin(root, run)
    ended = datetime.fromisoformat(started_at(run)) + timedelta(seconds=seconds)
    return write_summary(
        root,
        run,
        RunResult(
            exit_code=0, finished=finished, complete=finished, stopped_by=None, started_at=started_at(run),
            finished_at=utc_iso(ended), seconds=seconds,
            counts=Counts(read=2, failed=2), reasons={}, bytes_stored=0, requests={}, source=source,
            input_sha256=None, input_bytes=None, destination="dest", versions={},
        ),
        manifest=f"{run}.jsonl", shared=shared, rows=2, sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
