"""Events as log lines for people, and as JSON for machines."""

import sys
from collections.abc import Callable, Iterator
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
    RowsRecorded,
    RunStarted,
    RunStopping,
)
from bulkfetch.models import Outcome, Row, utc_iso
from bulkfetch.text import printable

SHOWN_FAILURES = 20
"""How many failures are told one by one, unless more is asked for."""

_FAILURES = frozenset({Outcome.FAILED, Outcome.REJECTED})


class Level(IntEnum):
    """How much a log line matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


def threshold(verbosity: int) -> Level:
    """The least level that is shown: -1 is `-q`, 1 is `-v`."""
    return {-1: Level.ERROR, 0: Level.WARNING, 1: Level.INFO}.get(verbosity, Level.DEBUG)


Told = Event | Row
"""What a log line is about. Rows become durable many at a time, and each has a line of its own."""


def tell(event: Event) -> None:
    """Say on stderr what a person should know, for a command that keeps no log."""
    if level_of(event) is not None:
        emit(sys.stderr, f"bulkfetch: {sentence(event)}")


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
        for level, told in _lines(event, self._least):
            if isinstance(told, Row) and self._failures_left is not None:
                self._failures_left -= 1
                if self._failures_left < -1:
                    continue
                if self._failures_left == -1:
                    self._write(level, "more rows failed; from here on they are only counted; the manifest names each")
                    continue
            self._write(level, sentence(told))


class JsonLogListener:
    """Tells events of level `least` and above on stderr, each as one line of JSON."""

    def __init__(self, least: Level) -> None:
        self._least = least

    def __call__(self, event: Event) -> None:
        """Tell `event`, if it matters enough."""
        for level, told in _lines(event, self._least):
            name = "RowRecorded" if isinstance(told, Row) else type(told).__name__
            emit(sys.stderr, as_json(log_record(level, name, sentence(told)) | _details(told)))


def log_record(level: Level, name: str, message: str) -> dict[str, object]:
    """The members that every JSON log line begins with."""
    return {"time": utc_iso(datetime.now(UTC)), "level": level.name.lower(), "event": name, "message": message}


def _details(told: Told) -> dict[str, object]:
    match told:
        case RowCorrected(row=row):
            return _details(row)
        case Row():
            return {
                "invoice_id": printable(told.invoice_id),
                "outcome": told.outcome,
                "reason": told.reason,
                "http_status": told.http_status,
                "line": told.line,
            }
        case RetryScheduled(invoice_id=invoice_id, reason=reason, wait=wait):
            return {"invoice_id": printable(invoice_id), "reason": reason, "wait": wait}
        case OriginDown(origin=origin, seconds=seconds):
            return {"origin": printable(origin), "seconds": seconds}
        case OriginUp(origin=origin):
            return {"origin": printable(origin)}
        case _:
            return {}


def _lines(event: Event, least: Level) -> Iterator[tuple[Level, Told]]:
    """What is told of `event`, by lines of level `least` and above."""
    if type(event) is RowsRecorded:
        if least is Level.DEBUG:
            yield from ((_level_of_row(row), row) for row in event.rows)
        elif least <= Level.WARNING:
            yield from ((Level.WARNING, row) for row in event.rows if row.outcome in _FAILURES)
        return
    level = level_of(event)
    if level is not None and level >= least:
        yield level, event


def _level_of_row(row: Row) -> Level:
    return Level.WARNING if row.outcome in _FAILURES else Level.DEBUG


def level_of(event: Event) -> Level | None:
    """How much `event` matters; None for an event that is not told, or whose rows are told each by itself."""
    match event:
        case RowCorrected(row=row):
            return Level.WARNING if row.outcome is Outcome.FAILED else Level.INFO
        case RunStarted() | RunStopping() | RetryScheduled() | OriginDown() | OriginUp():
            return Level.INFO
        case Note(level=level):
            return Level[level.upper()]
        case _:
            return None


def sentence(told: Told) -> str:
    """`told` in words, safe to print."""
    match told:
        case RunStarted(run=run, source=source, destination=destination):
            return printable(f"run {run}: {source} to {destination}")
        case Row():
            return _row_sentence(told)
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
