"""What the tests of the command line's output show: events, a summary, and text that no terminal may get."""

from collections.abc import Mapping

from bulkfetch.errors import Reason
from bulkfetch.events import RowsRecorded
from bulkfetch.models import NO_LINES, Counts, Outcome, RequestCounts, Row, Summary

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


def summary(
    exit_code: int = 0,
    *,
    finished: bool = True,
    stopped_by: str | None = None,
    lines: Mapping[str, int] = NO_LINES,
    **counts: int,
) -> Summary:
    """The summary of a run that took a minute; `counts` are its rows by outcome, `lines` the lines that are no rows."""
    return Summary(
        run="r1",
        exit_code=exit_code,
        finished=finished,
        complete=exit_code == 0,
        stopped_by=stopped_by,
        started_at="",
        finished_at="",
        seconds=60.0,
        counts=Counts(read=sum(counts.values()), **counts),
        reasons={"already_stored": 5, "timeout": 2, "not_found": 9, "connection": 0, "invalid_id": 1},
        bytes_stored=3 * 1024**2,
        requests={
            "links": RequestCounts(sent=12, answered=9, refused=3),
            "downloads": RequestCounts(sent=9, answered=9),
        },
        not_rows=lines,
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
