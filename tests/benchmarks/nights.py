"""What an archive costs after many nights of one list: bytes of its manifests, and the time until the next run begins,
with the ledger and without it. Nothing is downloaded: one night stored all, every later one skipped all."""

import argparse
import tempfile
import time
import uuid
import zlib
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from bulkfetch.errors import ExitCode, Reason
from bulkfetch.manifest import encode_rows
from bulkfetch.manifest.chain import write_summary
from bulkfetch.manifest.open_run import OpenRun
from bulkfetch.models import ROW_VERSION, Counts, Outcome, Row, RunResult, SkippedRow, utc_iso

FIRST = datetime(2025, 1, 1, 1, tzinfo=UTC)


def night(root: Path, number: int, ids: list[str]) -> bytes:
    """Write manifest and summary of one night; returns the rows."""
    begun = FIRST + timedelta(days=number)
    run, at = f"{begun:%Y%m%dT%H%M%SZ}-{number:06x}", utc_iso(begun)
    data = encode_rows([_row(run, at, line, each, stored=number == 0) for line, each in enumerate(ids, 1)])
    (root / "manifests" / f"{run}.jsonl").write_bytes(data)
    result = RunResult(
        exit_code=ExitCode.COMPLETE,
        finished=True,
        complete=True,
        stopped_by=None,
        started_at=at,
        finished_at=utc_iso(begun + timedelta(minutes=5)),
        seconds=300.0,
        counts=Counts(read=len(ids), **{"skipped" if number else "stored": len(ids)}),
        reasons={},
        bytes_stored=0,
        requests={},
        source="ids.txt",
        input_sha256=None,
        input_bytes=None,
        destination=str(root),
        versions={},
    )
    write_summary(root, run, result, manifest=f"{run}.jsonl", rows=len(ids), sha256=sha256(data).hexdigest())
    return data


def _row(run: str, at: str, line: int, invoice_id: str, *, stored: bool) -> Row:
    common = {"run": run, "invoice_id": invoice_id, "started_at": at, "finished_at": at, "line": line}
    if not stored:
        return SkippedRow(v=ROW_VERSION, outcome=Outcome.SKIPPED, reason=Reason.ALREADY_STORED, **common)
    key = f"{invoice_id}.pdf"
    uri = f"file:///archive/invoices/{key}"
    return Row(outcome=Outcome.STORED, key=key, uri=uri, size=30_000, sha256="ab" * 32, attempts=1, links=1, **common)


def start(root: Path) -> str:
    """Begin a run, leave no trace of it, and tell how long its beginning took."""
    began, cpu = time.perf_counter(), time.process_time()
    run = OpenRun.open(root, None, lambda: datetime.now(UTC), None, shared=False)
    told = f"{time.perf_counter() - began:.2f} s, of which {time.process_time() - cpu:.2f} s CPU"
    run.close()
    for file in (root / "manifests").glob(f"{run.run}*"):
        file.unlink()
    return told


def measure(root: Path, nights: int, rows: int) -> None:
    """Print the figures of an archive of so many `nights`, each of so many `rows`, planted in `root`."""
    (root / "manifests").mkdir(parents=True)
    (root / ".bulkfetch").mkdir()
    ids = [str(uuid.uuid4()) for _ in range(rows)]
    sizes = []
    for number in range(nights):
        data = night(root, number, ids)
        sizes.append(len(data))
    print(f"{nights} nights of {rows:,} rows: {sum(sizes):,} bytes")
    print(f"a stored row {sizes[0] / rows:.0f} bytes, a skipped row {sizes[-1] / rows:.0f} bytes")
    print(f"a night's rows compress {len(data) / len(zlib.compress(data)):.0f} to 1")
    print(f"start without the ledger  {start(root)}")
    print(f"start with the ledger     {start(root)}")
    print(f"the ledger has {(root / '.bulkfetch' / 'ledger.sqlite3').stat().st_size:,} bytes")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--nights", type=int, default=365)
    arguments.add_argument("--rows", type=int, default=2_000)
    arguments.add_argument("--work-dir", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work_dir) as directory:
        measure(Path(directory) / "archive", given.nights, given.rows)
