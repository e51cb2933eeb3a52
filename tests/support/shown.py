"""What the tests of the command line's output show: events, a summary, and text that no terminal may get."""

from bulkfetch.errors import Reason
from bulkfetch.events import RowsRecorded
from bulkfetch.models import Counts, Outcome, Row, Summary

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\r\n[bold]"


def recorded(
    outcome: str, invoice_id: str = "inv_1", reason: Reason | None = None, message: str | None = None
) -> RowsRecorded:
    """A row of line 7 with that outcome, just recorded."""
    row = Row(
        run="r1",
        invoice_id=invoice_id,
        outcome=Outcome(outcome),
        reason=reason,
        message=message,
        started_at="2026-01-01T00:00:00.000Z",
        finished_at="2026-01-01T00:00:01.000Z",
        line=7,
        key="inv_1.pdf",
        size=2048,
    )
    return RowsRecorded([row])


def summary(exit_code: int = 0, *, stopped_by: str | None = None, **counts: int) -> Summary:
    """The summary of a run that took a minute; `counts` are its rows by outcome."""
    return Summary(
        run="r1",
        exit_code=exit_code,
        complete=exit_code == 0,
        stopped_by=stopped_by,
        started_at="",
        finished_at="",
        seconds=60.0,
        counts=Counts(read=sum(counts.values()), **counts),
        reasons={"already_stored": 5, "timeout": 2, "not_found": 9, "connection": 0, "invalid_id": 1},
        bytes_stored=3 * 1024**2,
        requests={"links": 12, "refused": 3},
        source="ids.csv",
        input_sha256=None,
        input_bytes=None,
        destination="/srv/archive/",
        versions={},
        manifest="r1.jsonl",
        manifest_rows=sum(counts.values()),
        manifest_sha256="",
        previous=None,
        previous_sha256=None,
        beside={},
        unfinished={},
    )
