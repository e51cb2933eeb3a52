"""Events as log lines for people, and as JSON for machines."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum

from bulkfetch.cli.output import as_json, emit, human_bytes
from bulkfetch.events import (
    Event,
    Note,
    OriginDown,
    OriginUp,
    RetryScheduled,
    RowCorrected,
    RowRecorded,
    RunStarted,
    RunStopping,
)
from bulkfetch.models import Outcome, Row, utc_iso
from bulkfetch.text import printable

SHOWN_FAILURES = 20
"""How many failures are told one by one, unless more is asked for."""


class Level(IntEnum):
    """How much a log line matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


def threshold(verbosity: int) -> Level:
    """The least level that is shown: -1 is `-q`, 1 is `-v`."""
    return {-1: Level.ERROR, 0: Level.WARNING, 1: Level.INFO}.get(verbosity, Level.DEBUG)


class JsonRowsListener:
    """Writes each manifest row to stdout, as one line of JSON."""

    def __call__(self, event: Event) -> None:
        """Write the row, if `event` is one."""
        if isinstance(event, RowRecorded | RowCorrected):
            emit(sys.stdout, as_json(event.row))


class LogListener:
    """Tells events of level `least` and above, each as text and with its level, to `write`.

    At the standard level only the first `failures` failed or rejected rows are told; the manifest has them all.
    """

    def __init__(self, write: Callable[[Level, str], None], least: Level, *, failures: int = SHOWN_FAILURES) -> None:
        self._write = write
        self._least = least
        self._failures_left = failures if least == Level.WARNING else None

    def __call__(self, event: Event) -> None:
        """Tell `event`, if it matters enough."""
        level = level_of(event)
        if level is None or level < self._least:
            return
        if isinstance(event, RowRecorded) and self._failures_left is not None:
            self._failures_left -= 1
            if self._failures_left < -1:
                return
            if self._failures_left == -1:
                self._write(level, "more rows failed; from here on they are only counted, and the manifest names each")
                return
        self._write(level, sentence(event))


class JsonLogListener:
    """Tells events of level `least` and above on stderr, each as one line of JSON."""

    def __init__(self, least: Level) -> None:
        self._least = least

    def __call__(self, event: Event) -> None:
        """Tell `event`, if it matters enough."""
        level = level_of(event)
        if level is not None and level >= self._least:
            emit(sys.stderr, as_json(log_record(level, type(event).__name__, sentence(event)) | _details(event)))


def log_record(level: Level, name: str, message: str) -> dict[str, object]:
    """The members that every JSON log line begins with."""
    return {"time": utc_iso(datetime.now(UTC)), "level": level.name.lower(), "event": name, "message": message}


def _details(event: Event) -> dict[str, object]:
    match event:
        case RowRecorded(row=row) | RowCorrected(row=row):
            return {
                "invoice_id": printable(row.invoice_id),
                "outcome": row.outcome,
                "reason": row.reason,
                "http_status": row.http_status,
                "line": row.line,
            }
        case RetryScheduled(invoice_id=invoice_id, reason=reason, wait=wait):
            return {"invoice_id": printable(invoice_id), "reason": reason, "wait": wait}
        case OriginDown(origin=origin, seconds=seconds):
            return {"origin": printable(origin), "seconds": seconds}
        case OriginUp(origin=origin):
            return {"origin": printable(origin)}
        case _:
            return {}


def level_of(event: Event) -> Level | None:
    """How much `event` matters; None for an event that is not told."""
    match event:
        case RowRecorded(row=row):
            return Level.WARNING if row.outcome in (Outcome.FAILED, Outcome.REJECTED) else Level.DEBUG
        case RowCorrected(row=row):
            return Level.WARNING if row.outcome is Outcome.FAILED else Level.INFO
        case RunStarted() | RunStopping() | RetryScheduled() | OriginDown() | OriginUp():
            return Level.INFO
        case Note(level=level):
            return Level[level.upper()]
        case _:
            return None


def sentence(event: Event) -> str:
    """`event` in words, safe to print."""
    match event:
        case RunStarted(run=run, source=source, destination=destination):
            return printable(f"run {run}: {source} to {destination}")
        case RowRecorded(row=row):
            return _row_sentence(row)
        case RowCorrected(row=row):
            return f"corrected: {_row_sentence(row)}"
        case RetryScheduled(invoice_id=invoice_id, reason=reason, message=message, wait=wait):
            return printable(f"{invoice_id}: {reason}: {message}; again in {wait:.1f} s")
        case OriginDown(origin=origin, seconds=seconds, reason=reason):
            return printable(f"paused {seconds:.0f} s ({reason} from {origin})")
        case OriginUp(origin=origin):
            return printable(f"resumed ({origin})")
        case RunStopping(reason=reason):
            return printable(f"stopping: {reason}")
        case Note(message=message):
            return printable(message)
        case _:
            return ""


def _row_sentence(row: Row) -> str:
    where = f"line {row.line}: " if row.outcome is Outcome.REJECTED and row.line else ""
    what = [part for part in (row.reason, row.message) if part]
    if row.outcome is Outcome.STORED and row.size is not None:
        what = [*what, f"{row.key}, {human_bytes(row.size)}"]
    return printable(": ".join([f"{where}{row.invoice_id} {row.outcome}", *what]))
