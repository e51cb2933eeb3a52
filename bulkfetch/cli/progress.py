"""The progress display, and the choice of who listens to a run."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bulkfetch.cli.log import JsonLogListener, Level, LogListener, threshold
from bulkfetch.cli.output import OUTCOME_STYLE, emit, human_seconds
from bulkfetch.events import (
    Backlog,
    Estimated,
    Event,
    Listener,
    OriginDown,
    OriginUp,
    RetryScheduled,
    RowsRecorded,
    RunStarted,
)
from bulkfetch.models import Outcome, utc_iso
from bulkfetch.text import printable

BAR_WIDTH = 32
REDRAWS_A_SECOND = 5
RATE_WINDOW = 15.0
"""Seconds over which the rate is averaged: it follows a change, but does not jump with each batch."""

_LEVEL_STYLE = {Level.DEBUG: "dim", Level.INFO: "", Level.WARNING: "yellow", Level.ERROR: "bold red"}


class ProgressListener:
    """Counts events, and draws the counts when asked: an event costs an addition, however slow the terminal is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total: int | None = None
        self._backlog: Backlog | None = None
        self._done: Counter[Outcome] = Counter()
        self._retries = 0
        self._pauses: dict[str, tuple[float, str]] = {}
        self._samples: deque[tuple[float, int, int]] = deque([(clock(), 0, 0)])

    def __call__(self, event: Event) -> None:
        """Count `event`."""
        match event:
            case RowsRecorded(rows=rows):
                self._done.update(row.outcome for row in rows)
            case RetryScheduled():
                self._retries += 1
            case RunStarted(total=total) | Estimated(total=total):
                self._total = total
            case Backlog():
                self._backlog = event
            case OriginDown(origin=origin, seconds=seconds, reason=reason):
                self._pauses[origin] = (self._clock() + seconds, reason)
            case OriginUp(origin=origin):
                self._pauses.pop(origin, None)
            case _:
                pass

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        now, done = self._clock(), self._done.total()
        self._sample(now, done)
        yield self._advance(done, options.max_width)
        yield self._counters()
        for origin, (until, reason) in tuple(self._pauses.items()):
            left = f" {until - now:.0f} s" if until > now else ""
            yield _line(f"paused{left} ({printable(reason, 60)} from {printable(origin, 60)})", "bold yellow")

    def _sample(self, now: float, done: int) -> None:
        if now > self._samples[-1][0]:
            self._samples.append((now, done, self._done[Outcome.STORED]))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW:
            self._samples.popleft()

    def _rates(self) -> tuple[float, float]:
        """Rows, and files stored, a second."""
        (start, rows, files), (end, last_rows, last_files) = self._samples[0], self._samples[-1]
        span = max(end - start, 0.001)
        return (last_rows - rows) / span, (last_files - files) / span

    def _advance(self, done: int, width: int) -> Table:
        rows_a_second, files_a_second = self._rates()
        total = self._total if self._total is not None and self._total >= done else None
        figures = [f"{done:,} rows", f"{files_a_second:,.1f} files/s"]
        if self._backlog is not None:
            figures.append(_left(self._backlog))
        elif total:
            left = human_seconds((total - done) / rows_a_second) if rows_a_second else "unknown"
            figures = [f"{done * 100 // total:>3}%", f"{done:,} / {total:,}", figures[1], f"{left} left"]
        text = _line("  ".join(figures))
        bar_width = min(BAR_WIDTH, width - text.cell_len - 2)
        grid = Table.grid(padding=(0, 2, 0, 0))
        if bar_width < BAR_WIDTH // 4:
            grid.add_row(text)
        else:
            bar = ProgressBar(
                total=total, completed=done, width=bar_width, pulse=not total, complete_style="cyan", pulse_style="cyan"
            )
            grid.add_row(bar, text)
        return grid

    def _counters(self) -> Text:
        text = _line("")
        for outcome in Outcome:
            number = self._done[outcome]
            text.append(f"{outcome} {number:,}", style=OUTCOME_STYLE[outcome] if number else "dim").append(" · ", "dim")
        return text.append(f"retries {self._retries:,}", style="" if self._retries else "dim")


def _left(backlog: Backlog) -> str:
    if not (backlog.waiting or backlog.leased):
        return "the queue is empty"
    return f"{backlog.waiting:,} waiting, {backlog.leased:,} in all workers' hands"


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


@contextmanager
def display(*, log_format: str, verbosity: int, rows_to_stdout: bool) -> Iterator[list[Listener]]:
    """The listeners that suit the terminal and the flags. The progress display is erased at the end."""
    with ExitStack() as stack:
        listeners: list[Listener] = []
        console = Console(stderr=True, highlight=False)
        if log_format == "json":
            listeners.append(JsonLogListener(threshold(verbosity)))
        elif console.is_dumb_terminal or not console.is_terminal:
            listeners.append(LogListener(_stamped, threshold(verbosity)))
        else:
            listeners.append(LogListener(_above(console), threshold(verbosity)))
            # Rows on the same terminal would tear the display apart.
            if verbosity >= 0 and not (rows_to_stdout and sys.stdout.isatty()):
                listeners.append(stack.enter_context(_drawn(console)))
        yield listeners


@contextmanager
def _drawn(console: Console) -> Iterator[ProgressListener]:
    progress = ProgressListener()
    with Live(
        progress,
        console=console,
        refresh_per_second=REDRAWS_A_SECOND,
        transient=True,
        redirect_stdout=False,
    ):
        yield progress


def _stamped(level: Level, line: str) -> None:
    emit(sys.stderr, f"{utc_iso(datetime.now(UTC))} {level.name.lower()} {line}")


def _above(console: Console) -> Callable[[Level, str], None]:
    def write(level: Level, line: str) -> None:
        console.print(Text(line, style=_LEVEL_STYLE[level]), soft_wrap=True)

    return write
