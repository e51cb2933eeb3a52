"""What `bulkfetch status` shows: subject first, one thing a line, and readable without colour."""

import shlex
import sys
from collections.abc import Container, Iterator, Sequence
from datetime import datetime, timedelta
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from bulkfetch.app.retry import RetryPlan
from bulkfetch.app.run_history import PastRun, RunAtWork
from bulkfetch.app.status import Status, Verification
from bulkfetch.cli.output import as_json, emit, human_seconds
from bulkfetch.errors import ExitCode
from bulkfetch.manifest.overview import UnresolvedReason
from bulkfetch.text import printable

_LABEL = 14
_NARROWEST = 60
_HEADLINES = {
    ExitCode.COMPLETE: ("complete: nothing is unresolved", "green"),
    ExitCode.FAILED: ("not complete", "yellow"),
    ExitCode.FAILED_RETRYABLE: ("not complete: a retry may mend it", "yellow"),
    ExitCode.STOPPED: ("the newest run stopped early", "red"),
    ExitCode.VERIFY_FAILED: ("damaged: the last verification found what is not mended", "red"),
}


def print_status(status: Status, *, to_json: bool) -> None:
    """Print `status` on stdout: as one JSON object, or as a screen."""
    if to_json:
        emit(sys.stdout, as_json(status))
        return
    console = Console(highlight=False)
    console.print(status_text(status, console.width), soft_wrap=True)


def print_retry_plan(plan: RetryPlan, *, to_json: bool) -> None:
    """Print on stdout what a retry would try: as one JSON object, or by reason."""
    if to_json:
        emit(sys.stdout, as_json(plan))
        return
    now, room = datetime.now().astimezone(), max(Console().width, _NARROWEST)
    emit(sys.stdout, f"{_count(plan.invoices, 'invoice')} to try again")
    heads = _columns([(f"{each.invoices:,}", each.reason, f"since {_when(each.since, now)}") for each in plan.reasons])
    for head, each in zip(heads, plan.reasons, strict=True):
        emit(sys.stdout, f"{head}\n{_examples(each, room)}")


def status_text(status: Status, width: int = 80) -> Text:
    """The screen, for a terminal of `width` columns. Times are local, those of today and yesterday without the date."""
    now = datetime.fromisoformat(status.at).astimezone()
    room = max(width, _NARROWEST) - _LABEL
    text = Text()
    title = printable(status.destination, 1000) + (f", source {printable(status.source)}" if status.source else "")
    headline, style = _HEADLINES[ExitCode(status.exit_code)]
    text.append(f"{title}\n").append(headline, style=f"bold {style}").append("\n\n")
    for label, lines in (
        ("last run", _last_run(status.last_run, now, room)),
        ("at work", [line for run in status.at_work for line in _at_work(run, now, room)]),
        ("stored", [_count(status.stored, "invoice")]),
        ("unresolved", _unresolved(status, now, room)),
        ("accepted", _accepted(status, now, room)),
        ("verified", wrap(_verified(status.verification, now), room)),
    ):
        for index, line in enumerate(lines):
            text.append(f"{label if not index else '':<{_LABEL}}", style="bold").append(f"{line}\n")
    for index, line in enumerate(_table(status.runs, now, room + _LABEL)):
        text.append("" if index else "\n").append(f"{line}\n", style="" if index else "bold")
    for index, line in enumerate(_advice(status)):
        text.append("" if index else "\nnext\n", style="bold").append(f"  {line}\n")
    text.rstrip()
    return text


def verdict(run: PastRun) -> str:
    """How `run` ended, in a word or two."""
    match run.exit_code:
        case None:
            return "died"
        case ExitCode.COMPLETE:
            return "complete"
        case ExitCode.FAILED | ExitCode.FAILED_RETRYABLE:
            return "finished, not complete"
        case ExitCode.SIGINT | ExitCode.SIGTERM:
            return "interrupted"
        case _:
            return "stopped"


def _last_run(run: PastRun | None, now: datetime, room: int) -> list[str]:
    if run is None:
        return ["none has ended yet"]
    length = f", {human_seconds(run.seconds)}" if run.seconds is not None else ""
    why = f": {printable(run.stopped_by, 300)}" if run.stopped_by else ""
    lines = [*wrap(verdict(run) + why, room), f"{_source(run.source, room - 36)}, {_when(run.started_at, now)}{length}"]
    if run.counts is not None:
        words = ("stored", "skipped", "failed", "rejected")
        parts = [f"{number:,} {word}" for word in words if (number := getattr(run.counts, word))]
        lines += wrap(f"{_count(run.counts.read, 'row')}: {', '.join(parts) or 'nothing to do'}", room)
    return lines


def _at_work(run: RunAtWork, now: datetime, room: int) -> Iterator[str]:
    where = f", on {printable(run.host, 100)}, process {run.pid}" if run.host else ""
    yield from wrap(f"{_source(run.source, room)}, since {_when(run.started_at, now)}{where}", room)
    done = f"{run.rows:,} {'row' if run.rows == 1 else 'rows'}"
    if run.estimate:
        done = f"{run.rows:,} of about {run.estimate:,} rows, {min(100, 100 * run.rows // run.estimate)}%"
    if run.silent_since:
        yield f"{done}; silent since {_when(run.silent_since, now)}"
        return
    seconds = (now - datetime.fromisoformat(run.started_at)).total_seconds()
    left = (run.estimate or 0) - run.rows
    yield done + (
        f", about {human_seconds(max(10.0, seconds * left / run.rows))} left" if run.rows and left > 0 else ""
    )


def _unresolved(status: Status, now: datetime, room: int) -> list[str]:
    heads = _columns(
        [(f"{each.invoices:,}", each.reason, f"since {_when(each.since, now)}") for each in status.unresolved]
        + [(f"{each.rows:,}", each.reason, f"in {_source(each.source, room // 2)}") for each in status.rejected]
    )
    tails = [_examples(each, room) for each in status.unresolved]
    tails += [f"  rows without a usable ID, rejected by {each.run}" for each in status.rejected]
    return [line for pair in zip(heads, tails, strict=True) for line in pair] or ["none"]


def _examples(reason: UnresolvedReason, room: int) -> str:
    """As many IDs as there is room for, one at least."""
    named = [printable(each, 40) for each in reason.examples]
    while len(named) > 1 and len(", ".join(named)) > room - 5:
        named.pop()
    return f"  {', '.join(named)}{', …' if reason.invoices > len(named) else ''}"


def _accepted(status: Status, now: datetime, room: int) -> list[str]:
    gaps = status.accepted
    rejected = [f"{_count(gaps.rejected, 'rejected row')}"] if gaps.rejected else []
    if not gaps.invoices:
        return rejected or ["no gaps"]
    heads = _columns([(printable(gap.invoice_id, 40), _when(gap.at, now)) for gap in gaps.examples], right=())
    wide = max(map(len, heads))
    lines = [
        f"  {head:<{wide}}  {printable(gap.reason, max(20, room - wide - 4))}"
        for head, gap in zip(heads, gaps.examples, strict=True)
    ]
    more = gaps.invoices - len(lines)
    return [_count(gaps.invoices, "gap"), *lines, *([f"  and {more:,} more"] if more else []), *rejected]


def _verified(verification: Verification | None, now: datetime) -> str:
    if verification is None:
        return "never"
    bad = [f"{getattr(verification, word):,} {word}" for word in ("missing", "damaged", "extra")]
    found = ", ".join(part for part in bad if not part.startswith("0 ")) or "all sound"
    left = f"; not mended: {verification.unmended:,}" if verification.unmended else ""
    when = _when(verification.run_at, now)
    return f"{when}, {printable(verification.kind, 40)}, {_count(verification.checked, 'object')}: {found}{left}"


def _table(runs: Sequence[PastRun], now: datetime, width: int) -> list[str]:
    """The last runs, one a line, with a heading; none if there was none."""
    if not runs:
        return []
    rows = [("last runs", "took", "stored", "failed", "verdict")]
    for run in runs:
        counts = run.counts
        rows.append(
            (
                _when(run.started_at, now),
                human_seconds(run.seconds) if run.seconds is not None else "-",
                f"{counts.stored:,}" if counts else "-",
                f"{counts.failed + counts.rejected:,}" if counts else "-",
                verdict(run).removeprefix("finished, "),
            )
        )
    heads = _columns(rows, right=(1, 2, 3), pad=True)
    room = max(12, width - len(heads[0]) - 2)
    sources = ["source", *(_source(run.source, room) for run in runs)]
    return [f"{head}  {source}" for head, source in zip(heads, sources, strict=True)]


def _advice(status: Status) -> list[str]:
    dest = shlex.quote(printable(status.destination, 1000))
    steps = []
    if status.exit_code == ExitCode.STOPPED:
        steps.append(("the command of that run again", "goes on from where it stopped"))
    if status.unresolved:
        steps.append((f"bulkfetch retry {dest}", "tries what is unresolved again"))
        steps.append((f"bulkfetch accept {dest} ID --reason TEXT", "records that an invoice will not come"))
    if status.rejected:
        steps.append((f"bulkfetch accept {dest} --rejected RUN --reason TEXT", "or mend these rows in the list"))
    return [line for step, what in steps for line in (step, f"    {what}")]


def _columns(rows: Sequence[tuple[str, ...]], right: Container[int] = (0,), *, pad: bool = False) -> list[str]:
    """`rows` as lines in which the cells stand below each other, in the columns `right` at their right edge. With `pad`
    all lines have one length."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:>{width}}" if index in right else f"{cell:<{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return lines if pad else [line.rstrip() for line in lines]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _source(source: str | None, room: int) -> str:
    """The source's name, of which the end is kept where it is long: there paths differ."""
    shown = printable(source, 1000) if source else "unknown source"
    return shown if len(shown) <= room else "…" + shown[1 - room :]


def _when(moment: str, now: datetime) -> str:
    """`moment` (UTC ISO 8601) as the clock on the wall had it, and how many days ago that was."""
    local = datetime.fromisoformat(moment).astimezone(now.tzinfo)
    if local.date() == now.date():
        return f"today {local:%H:%M}"
    if local.date() == (now - timedelta(days=1)).date():
        return f"yesterday {local:%H:%M}"
    return f"{local:%Y-%m-%d %H:%M}"
