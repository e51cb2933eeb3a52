"""Runs of an archive as files: one that died, and one that ended."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bulkfetch.errors import Reason
from bulkfetch.manifest import encode_rows
from bulkfetch.manifest.chain import write_summary
from bulkfetch.manifest.runs import list_runs, new_run_id, started_at
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


def accept(root: Path, ids: Sequence[str], why: str | None) -> None:
    """Record that `ids` will not come, and `why`; None takes that back. As a run of its own, now."""
    now = datetime.now(UTC)
    run = new_run_id(now, after=max((run.id for run in list_runs(root)), default=None))
    reason = Reason.ACCEPTED if why else Reason.WITHDRAWN
    rows = [
        Row(
            run=run, invoice_id=invoice_id, outcome=Outcome.SKIPPED, reason=reason, message=why,
            started_at=utc_iso(now), finished_at=utc_iso(now),
        )
        for invoice_id in ids
    ]  # fmt: skip
    data = encode_rows(rows)
    (root / "manifests" / f"{run}.jsonl").write_bytes(data)
    write_summary(
        root,
        run,
        RunResult(
            exit_code=0, finished=True, complete=True, stopped_by=None, started_at=utc_iso(now),
            finished_at=utc_iso(now), seconds=0.0,
            counts=Counts(read=len(rows), skipped=len(rows)), reasons={}, bytes_stored=0, requests={}, source="",
            input_sha256=None, input_bytes=None, destination="dest", versions={},
        ),
        manifest=f"{run}.jsonl", rows=len(rows), sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
