"""What a person or a script reads: log lines, rows as JSON, plan, checks, and the summary at the end."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, TextIO

import msgspec
from rich.console import Console
from rich.text import Text

from bulkfetch.cli import silence
from bulkfetch.errors import ExitCode, Reason
from bulkfetch.events import Event, GateClosed, GateOpened, Note, RetryScheduled, RowRecorded, RunStarted
from bulkfetch.models import Outcome, Row, Summary, utc_iso
from bulkfetch.text import safe

if TYPE_CHECKING:
    from bulkfetch.app import CheckResult, Plan

SHOWN_REASONS = 5
SHOWN_FAILURES = 20
"""How many failures are told one by one, unless more is asked for."""

_REASONS_OF: Mapping[Outcome, frozenset[Reason]] = {
    Outcome.STORED: frozenset({Reason.ADOPTED}),
    Outcome.SKIPPED: frozenset({Reason.ALREADY_STORED, Reason.DUPLICATE}),
    Outcome.REJECTED: frozenset({Reason.INVALID_ID, Reason.INVALID_ROW, Reason.POISON}),
}
_REASONS_ELSEWHERE = frozenset[str]().union(*_REASONS_OF.values())

OUTCOME_STYLE: Mapping[Outcome, str] = {
    Outcome.STORED: "green",
    Outcome.SKIPPED: "cyan",
    Outcome.FAILED: "bold red",
    Outcome.REJECTED: "yellow",
}


class Level(IntEnum):
    """How much a log line matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


def threshold(verbosity: int) -> Level:
    """The least level that is shown: -1 is `-q`, 1 is `-v`."""
    return {-1: Level.ERROR, 0: Level.WARNING, 1: Level.INFO}.get(verbosity, Level.DEBUG)


def emit(stream: TextIO, line: str) -> None:
    """Write `line` at once. That nobody reads it, or its disk is full, is no error: a run does not depend on that."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except OSError:
        silence(stream)


def as_json(value: object) -> str:
    """`value` as JSON in one line of printable ASCII: nothing in it can steer a terminal."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


class JsonRowsListener:
    """Writes each manifest row to stdout, as one line of JSON."""

    def __call__(self, event: Event) -> None:
        """Write the row, if `event` is one."""
        if type(event) is RowRecorded:
            emit(sys.stdout, as_json(event.row))


class LogListener:
    """Tells events from `least` upwards, each as text to `write`, which gets the level too.

    The first `failures` failed or rejected rows are told; the others are for the manifest.
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
    """Tells events from `least` upwards on stderr, each as one line of JSON."""

    def __init__(self, least: Level) -> None:
        self._least = least

    def __call__(self, event: Event) -> None:
        """Tell `event`, if it matters enough."""
        level = level_of(event)
        if level is not None and level >= self._least:
            emit(sys.stderr, as_json(_record(level, type(event).__name__, sentence(event)) | _details(event)))


def _record(level: Level, name: str, message: str) -> dict[str, object]:
    return {"time": utc_iso(datetime.now(UTC)), "level": level.name.lower(), "event": name, "message": message}


def _details(event: Event) -> dict[str, object]:
    match event:
        case RowRecorded(row=row):
            return {
                "invoice_id": safe(row.invoice_id),
                "outcome": row.outcome,
                "reason": row.reason,
                "http_status": row.http_status,
                "line": row.line,
            }
        case RetryScheduled(invoice_id=invoice_id, reason=reason, wait=wait):
            return {"invoice_id": safe(invoice_id), "reason": reason, "wait": wait}
        case GateClosed(origin=origin, seconds=seconds):
            return {"origin": safe(origin), "seconds": seconds}
        case GateOpened(origin=origin):
            return {"origin": safe(origin)}
        case _:
            return {}


def level_of(event: Event) -> Level | None:
    """How much `event` matters; None where it is nothing to tell."""
    match event:
        case RowRecorded(row=row):
            return Level.WARNING if row.outcome in (Outcome.FAILED, Outcome.REJECTED) else Level.DEBUG
        case RunStarted() | RetryScheduled() | GateClosed() | GateOpened():
            return Level.INFO
        case Note(level=level):
            return Level[level.upper()]
        case _:
            return None


def sentence(event: Event) -> str:
    """`event` in words, safe to print."""
    match event:
        case RunStarted(run=run, source=source, destination=destination):
            return safe(f"run {run}: {source} to {destination}")
        case RowRecorded(row=row):
            return _row_sentence(row)
        case RetryScheduled(invoice_id=invoice_id, reason=reason, message=message, wait=wait):
            return safe(f"{invoice_id}: {reason}: {message}; again in {wait:.1f} s")
        case GateClosed(origin=origin, seconds=seconds, reason=reason):
            return safe(f"paused {seconds:.0f} s ({reason} from {origin})")
        case GateOpened(origin=origin):
            return safe(f"resumed ({origin})")
        case Note(message=message):
            return safe(message)
        case _:
            return ""


def _row_sentence(row: Row) -> str:
    where = f"line {row.line}: " if row.outcome is Outcome.REJECTED and row.line else ""
    what = [part for part in (row.reason, row.message) if part]
    if row.outcome is Outcome.STORED and row.size is not None:
        what = [*what, f"{row.key}, {human_bytes(row.size)}"]
    return safe(": ".join([f"{where}{row.invoice_id} {row.outcome}", *what]))


def human_bytes(size: float) -> str:
    """`size` with a binary unit: "1.4 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """`seconds` with the two largest units: "1 h 12 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def print_summary(summary: Summary, log_format: str) -> None:
    """Print the end of a run on stderr: a block for people, or one JSON object."""
    if log_format == "json":
        level = Level.INFO if summary.exit_code == ExitCode.COMPLETE else Level.ERROR
        record = _record(level, "Summary", safe(_headline(summary)[0]))
        emit(sys.stderr, as_json(record | {"summary": summary}))
        return
    try:
        Console(stderr=True, highlight=False).print(summary_text(summary), soft_wrap=True)
    except OSError:
        silence(sys.stderr)


def summary_text(summary: Summary) -> Text:
    """The summary's block: what became of every row, where it is written down, and what to do next."""
    words, style = _headline(summary)
    text = Text("\n").append(safe(words), style=f"bold {style}")
    text.append(f"  {summary.counts.read:,} rows in {human_seconds(summary.seconds)}\n\n")
    width = max(7, len(f"{summary.counts.read:,}"))
    for outcome in Outcome:
        number = getattr(summary.counts, outcome)
        text.append(f"  {outcome:<9}")
        text.append(f"{number:>{width},}", style=OUTCOME_STYLE[outcome] if number else "dim")
        text.append(f"   {_explanation(summary, outcome)}".rstrip() + "\n", style="dim")
    text.append("\n")
    if summary.requests:
        made = " · ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in summary.requests.items())
        text.append(f"  requests    {safe(made)}\n")
    if summary.manifest:
        place = f"{summary.destination.rstrip('/')}/manifests/{summary.manifest}"
        text.append(f"  manifest    {safe(place, limit=2000)}\n")
    if advice := _advice(summary):
        text.append("  next        ").append(advice + "\n", style="bold")
    text.rstrip()
    return text


def _headline(summary: Summary) -> tuple[str, str]:
    match summary.exit_code:
        case ExitCode.COMPLETE:
            return "complete", "green"
        case ExitCode.SIGINT | ExitCode.SIGTERM:
            return "interrupted", "yellow"
        case ExitCode.FAILED | ExitCode.FAILED_RETRYABLE:
            own = summary.counts.failed or summary.counts.rejected
            words = [*(["with failures"] if own else []), *([summary.stopped_by] if summary.stopped_by else [])]
            return f"finished{' ' if own else ', but '}{'; '.join(words)}", "yellow"
        case _:
            return f"stopped: {summary.stopped_by or f'exit code {summary.exit_code}'}", "red"


def _explanation(summary: Summary, outcome: Outcome) -> str:
    """The reasons behind an outcome, the most frequent first; for stored ones, how much and how fast."""
    if outcome is Outcome.FAILED:
        mine = {word: number for word, number in summary.reasons.items() if number and word not in _REASONS_ELSEWHERE}
    else:
        mine = {word: number for word, number in summary.reasons.items() if number and word in _REASONS_OF[outcome]}
    ranked = sorted(mine.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{safe(word)} {number:,}" for word, number in ranked[:SHOWN_REASONS]]
    if len(ranked) > SHOWN_REASONS:
        parts.append(f"{len(ranked) - SHOWN_REASONS} reasons more")
    if outcome is Outcome.STORED and summary.counts.stored:
        rate = summary.counts.stored / max(summary.seconds, 0.001)
        parts.insert(0, f"{human_bytes(summary.bytes_stored)}, {rate:,.1f} files/s")
    return " · ".join(parts)


def _advice(summary: Summary) -> str:
    failed = summary.counts.failed
    match summary.exit_code:
        case ExitCode.COMPLETE:
            return ""
        case ExitCode.FAILED_RETRYABLE:
            return f"run the same command again to try the {failed:,} failed {'one' if failed == 1 else 'ones'}"
        case ExitCode.FAILED if "://" in summary.source:
            return f"bulkfetch queue dead --queue {safe(summary.source, 200)} names what was given up, and why"
        case ExitCode.FAILED if not (failed or summary.counts.rejected):
            return "see that the input is whole, then run the same command again"
        case ExitCode.FAILED:
            return "the manifest has the reason of each row; mend it, then run the same command again"
        case _:
            return "run the same command again: it goes on from here"


def print_plan(plan: "Plan", *, to_json: bool) -> None:
    """Print `plan` on stdout."""
    if to_json:
        emit(sys.stdout, as_json(plan))
        return
    numbers = {
        "rows": plan.read,
        "to fetch": plan.to_fetch,
        "already stored": plan.already_stored,
        "duplicates": plan.duplicates,
        "rejected": plan.rejected,
    }
    print_numbers(numbers)
    if plan.seconds_at_rate is not None:
        emit(sys.stdout, f"{'takes at least':<15} {human_seconds(plan.seconds_at_rate)}, at the rate that is set")
    print_problems(plan.problems)


def print_numbers(numbers: Mapping[str, int]) -> None:
    """Print `numbers` on stdout, each with its name, one below the other."""
    width = max(7, *(len(f"{number:,}") for number in numbers.values()))
    for name, number in numbers.items():
        emit(sys.stdout, f"{name:<15}{number:>{width},}")


def print_problems(problems: Sequence[tuple[int | None, str]]) -> None:
    """Print what is wrong with the first rows that cannot be used, by line; nothing where there are none."""
    if problems:
        emit(sys.stdout, "\nfirst problems")
    for line, message in problems:
        emit(sys.stdout, f"  {f'line {line}: ' if line else ''}{safe(message)}")


def print_checks(results: Sequence["CheckResult"]) -> None:
    """Print the outcome of each check on stdout."""
    console = Console(highlight=False)
    fancy = (console.encoding or "").lower().startswith("utf")
    marks = {True: ("✓" if fancy else "ok", "green"), False: ("✗" if fancy else "no", "bold red")}
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        mark, style = marks[result.ok] if result.ok is not None else ("\N{EN DASH}" if fancy else "--", "dim")
        line = Text(mark, style=style).append(
            f"  {safe(result.name):<{width}}  ", style="bold" if result.ok is False else ""
        )
        console.print(line.append(safe(result.detail), style="default"), soft_wrap=True)
