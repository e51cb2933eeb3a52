"""The closing block of a run: what became of every row, and what to do next."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from bulkfetch.cli.log import Level, log_record
from bulkfetch.cli.output import OUTCOME_STYLE, as_json, emit, human_bytes, human_seconds
from bulkfetch.errors import ExitCode, Reason
from bulkfetch.manifest.chain import head_of
from bulkfetch.models import Outcome, RequestCounts, Summary
from bulkfetch.text import printable

SHOWN_REASONS = 5

_REASONS_OF: Mapping[Outcome, frozenset[Reason]] = {
    Outcome.STORED: frozenset({Reason.ADOPTED}),
    Outcome.SKIPPED: frozenset({Reason.ALREADY_STORED, Reason.DUPLICATE, Reason.ACCEPTED}),
    Outcome.REJECTED: frozenset({Reason.INVALID_ID, Reason.INVALID_ROW, Reason.POISON}),
}
_REASONS_ELSEWHERE = frozenset[str]().union(*_REASONS_OF.values())


def print_loss(loss: str, log_format: str) -> None:
    """Say on stderr what did not reach stdout."""
    if log_format == "json":
        emit(sys.stderr, as_json(log_record(Level.WARNING, "OutputLost", loss)))
    else:
        emit(sys.stderr, f"bulkfetch: warning: {loss}")


def print_nothing_to_do(log_format: str, *, quiet: bool) -> None:
    """Say on stderr that there was no run, as nothing is unresolved."""
    if quiet:
        return
    message = "nothing is unresolved: there is nothing to try again"
    emit(sys.stderr, as_json(log_record(Level.INFO, "Note", message)) if log_format == "json" else message)


def print_summary(summary: Summary, log_format: str) -> None:
    """Print the end of a run on stderr: a block for people, or one JSON object."""
    if log_format == "json":
        level = Level.INFO if summary.exit_code == ExitCode.COMPLETE else Level.ERROR
        record = log_record(level, "Summary", printable(_headline(summary)[0]))
        emit(sys.stderr, as_json(record | {"summary": summary, "head": head_of(summary)}))
        return
    Console(stderr=True, highlight=False).print(summary_text(summary), soft_wrap=True)


def summary_text(summary: Summary) -> Text:
    """The summary's block: what became of every row, where it is written down, and what to do next."""
    headline, style = _headline(summary)
    text = Text("\n").append(printable(headline), style=f"bold {style}")
    text.append(f"  {summary.counts.read:,} rows in {human_seconds(summary.seconds)}\n\n")
    width = max(7, len(f"{summary.counts.read:,}"))
    for outcome in Outcome:
        number = getattr(summary.counts, outcome)
        text.append(f"  {outcome:<9}")
        text.append(f"{number:>{width},}", style=OUTCOME_STYLE[outcome] if number else "dim")
        text.append(f"   {_explanation(summary, outcome)}".rstrip() + "\n", style="dim")
    text.append("\n")
    if any(summary.not_rows.values()):
        text.append(f"  no rows     {_lines(summary.not_rows)}\n")
    if summary.requests:
        made = " · ".join(f"{kind} {_made(counts)}" for kind, counts in summary.requests.items())
        text.append(f"  requests    {printable(made)}\n")
    if summary.names_taken:
        text.append(f"  names       {summary.names_taken:,} were taken, so a hash was added: see the rows' messages\n")
    if summary.manifest:
        path = f"{summary.destination.rstrip('/')}/manifests/{summary.manifest}"
        text.append(f"  manifest    {printable(path, limit=2000)}\n")
        text.append(f"  head        {head_of(summary)}\n")
    if advice := _advice(summary):
        text.append("  next        ").append(advice + "\n", style="bold")
    text.rstrip()
    return text


def _headline(summary: Summary) -> tuple[str, str]:
    """Whether the run is complete, or finished, or neither, in words; and a colour."""
    why = summary.stopped_by
    match summary.exit_code:
        case ExitCode.COMPLETE if summary.complete:
            return "complete", "green"
        case ExitCode.SIGINT | ExitCode.SIGTERM:
            return f"interrupted, {_reached(summary)}", "yellow"
        case ExitCode.FAILED | ExitCode.FAILED_RETRYABLE:
            missing = [
                f"{number:,} {word}" for word in ("failed", "rejected") if (number := getattr(summary.counts, word))
            ]
            return f"finished, but not complete: {'; '.join([*missing, *([why] if why else [])])}", "yellow"
        case _:
            return f"stopped, {_reached(summary)}: {why or f'exit code {summary.exit_code}'}", "red"


def _reached(summary: Summary) -> str:
    return "though every row has an outcome" if summary.finished else "not finished"


def _made(counts: RequestCounts) -> str:
    """How many were sent, and what was not simply answered, such as "1,200 (3 refused, 1 failed)"."""
    other = [f"{number:,} {word}" for word in ("refused", "failed", "abandoned") if (number := getattr(counts, word))]
    return f"{counts.sent:,}" + (f" ({', '.join(other)})" if other else "")


def _lines(not_rows: Mapping[str, int]) -> str:
    """The input's lines that are no rows, such as "2 blank · 1 header"."""
    return printable(" · ".join(f"{number:,} {kind}" for kind, number in not_rows.items() if number))


def _explanation(summary: Summary, outcome: Outcome) -> str:
    """The reasons behind an outcome, the most frequent first; for stored ones, how much and how fast."""
    if outcome is Outcome.FAILED:
        mine = {word: number for word, number in summary.reasons.items() if number and word not in _REASONS_ELSEWHERE}
    else:
        mine = {word: number for word, number in summary.reasons.items() if number and word in _REASONS_OF[outcome]}
    ranked = sorted(mine.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{printable(word)} {number:,}" for word, number in ranked[:SHOWN_REASONS]]
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
            return f"bulkfetch queue dead --queue {printable(summary.source, 200)} names what was given up, and why"
        case ExitCode.FAILED if not (failed or summary.counts.rejected):
            return "see that the input is whole, then run the same command again"
        case ExitCode.FAILED:
            return "the manifest has the reason of each row; mend it, then run the same command again"
        case ExitCode.USAGE:
            return "correct this, then run the command again"
        case _ if summary.stopped_by is not None and summary.exit_code == ExitCode.STOPPED:
            return "once that is mended or over, run the same command again: it goes on from here"
        case _:
            return "run the same command again: it goes on from here"
