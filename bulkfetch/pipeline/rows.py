"""How the manifest tells what happened to an input row."""

from collections.abc import Callable
from datetime import datetime

from bulkfetch.errors import InvoiceError, PermanentError, Reason, TransientError
from bulkfetch.models import (
    ROW_VERSION,
    Delivery,
    Entry,
    InputRow,
    Malformed,
    Outcome,
    PutResult,
    Row,
    SkippedRow,
    utc_iso,
)
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.triage import Sorted
from bulkfetch.text import printable


class RowWriter:
    """Words what happened to an input row as its manifest row."""

    def __init__(self, run: str, utc_now: Callable[[], datetime]) -> None:
        self._run = run
        self._utc_now = utc_now

    def known(self, known: Sorted) -> list[tuple[InputRow, Row]]:
        """What needs no fetching, each input row with its manifest row; all of one moment."""
        now = self._now()
        return [
            *((row, self.malformed(row, now)) for row in known.malformed),
            *((delivery, self.unusable(delivery, error, now)) for delivery, error in known.unusable),
            *((delivery, self.duplicate(delivery, line, now)) for delivery, line in known.duplicates),
            *(
                (delivery, self.already_stored(delivery, now, _moved(entry, known.moved.get(delivery.invoice_id))))
                for delivery, entry in known.stored
            ),
            *((delivery, self.accepted(delivery, now)) for delivery, _ in known.accepted),
        ]

    def stored(self, job: Job, result: PutResult) -> Row:
        """The object is there: just now, or adopted."""
        return self._of_job(
            job,
            Outcome.STORED,
            reason=Reason.ADOPTED if result.adopted else None,
            key=result.key,
            uri=result.uri,
            size=result.size,
            sha256=result.sha256,
            e_tag=result.e_tag,
            content_type=result.content_type,
            version_id=result.version_id,
            lock_mode=result.lock_mode,
            retain_until=result.retain_until,
            message=job.note,
        )

    def failed(self, job: Job, error: InvoiceError) -> Row:
        """The invoice was given up in this run. Size and SHA-256 are of the bytes that were refused, if any were."""
        return self._of_job(
            job,
            Outcome.FAILED,
            reason=error.reason,
            retryable=isinstance(error, TransientError),
            key=job.key,
            size=error.refused.size if error.refused else None,
            sha256=error.refused.sha256 if error.refused else None,
            http_status=error.http_status,
            message=printable(str(error)),
        )

    def already_stored(self, delivery: Delivery, now: str = "", message: str | None = None) -> Row:
        """An earlier run stored it, and the object is in its place. `now` is the moment, if it is known already (below,
        too)."""
        return self._skipped(delivery, Reason.ALREADY_STORED, now, message)

    def accepted(self, delivery: Delivery, now: str = "") -> Row:
        """Somebody has accepted that it will not come. Only that person's own row has a message: it sets the flag."""
        return self._skipped(delivery, Reason.ACCEPTED, now)

    def duplicate(self, delivery: Delivery, first_line: int | None, now: str = "") -> Row:
        """The ID came before in this input."""
        where = "earlier in this input" if first_line is None else f"of line {first_line}"
        return self._skipped(delivery, Reason.DUPLICATE, now, f"duplicate {where}")

    def unusable(self, delivery: Delivery, error: PermanentError, now: str = "") -> Row:
        """The row's other columns do not give it a key."""
        return self._at_once(delivery, Outcome.REJECTED, error.reason, now, printable(str(error)))

    def malformed(self, row: Malformed, now: str = "") -> Row:
        """The row names no usable invoice."""
        delivery = Delivery(row.raw, row.line)
        return self._at_once(delivery, Outcome.REJECTED, row.reason, now, printable(row.message))

    def _skipped(self, delivery: Delivery, reason: Reason, now: str, message: str | None = None) -> Row:
        now = now or self._now()
        return SkippedRow(
            v=ROW_VERSION,
            run=self._run,
            invoice_id=delivery.invoice_id,
            outcome=Outcome.SKIPPED,
            reason=reason,
            message=message,
            started_at=now,
            finished_at=now,
            line=delivery.line,
        )

    def _of_job(self, job: Job, outcome: Outcome, **columns: object) -> Row:
        effort, finished = job.effort, self._utc_now()
        return self._row(
            job.delivery,
            outcome,
            attempts=effort.attempts,
            links=effort.links,
            started_at=utc_iso(effort.started_at),
            finished_at=utc_iso(finished),
            seconds=max(0.0, round((finished - effort.started_at).total_seconds(), 3)),
            **columns,
        )

    def _at_once(self, delivery: Delivery, outcome: Outcome, reason: Reason, now: str, message: str) -> Row:
        now = now or self._now()
        return self._row(delivery, outcome, reason=reason, started_at=now, finished_at=now, message=message)

    def _now(self) -> str:
        return utc_iso(self._utc_now())

    def _row(self, delivery: Delivery, outcome: Outcome, **columns: object) -> Row:
        return Row(
            run=self._run,
            invoice_id=delivery.invoice_id,
            outcome=outcome,
            line=delivery.line,
            fields=delivery.fields,
            **columns,  # type: ignore[arg-type]  # each caller names Row's own columns
        )


def _moved(entry: Entry, key: str | None) -> str | None:
    """What is said of an object that would have another `key` today."""
    return f"stays under {printable(entry.key, 220)}; its key would now be {printable(key, 220)}" if key else None
