"""Rows and summaries for tests of the manifest, all of one moment."""

from datetime import UTC, datetime
from typing import Any

from bulkfetch.models import Counts, Outcome, Row, RunResult

NOW = "2025-01-31T00:00:00.000Z"


def clock() -> datetime:
    """The moment."""
    return datetime(2025, 1, 31, tzinfo=UTC)


def row(invoice_id: str, outcome: Outcome = Outcome.STORED, **more: Any) -> Row:
    """A row of `invoice_id`; one `stored` names an object. `more` are further columns, or others."""
    stored = {"key": f"{invoice_id}.pdf", "size": 7, "sha256": "ab" * 32} if outcome is Outcome.STORED else {}
    columns: dict[str, Any] = stored | more
    return Row(run="r", invoice_id=invoice_id, outcome=outcome, started_at=NOW, finished_at=NOW, **columns)


def summary(*, finished: bool = True) -> RunResult:
    """The result of a run without rows."""
    return RunResult(
        exit_code=0,
        finished=finished,
        complete=finished,
        stopped_by=None,
        started_at=NOW,
        finished_at=NOW,
        seconds=0.0,
        counts=Counts(),
        reasons={},
        bytes_stored=0,
        requests={},
        source="ids.txt",
        input_sha256=None,
        input_bytes=None,
        destination="dest",
        versions={},
    )
