"""How far a plan is, on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.live import Live
from rich.text import Text

REDRAWS_A_SECOND = 5


class PlanProgress:
    """Keeps the numbers that it is told, and draws them when asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._read = 0
        self._total: int | None = None

    def __call__(self, read: int, total: int | None) -> None:
        """Take note of `read` rows, of `total` expected."""
        self._read, self._total = read, total

    def __rich_console__(self, _: Console, __: ConsoleOptions) -> RenderResult:
        rate = self._read / max(self._clock() - self._began, 0.001)
        rows = f"{self._read:,} rows"
        if self._total:
            rows = f"{self._read * 100 // self._total:>3}%  {self._read:,} / {self._total:,} rows"
        yield Text(f"{rows}  {rate:,.0f} rows/s", no_wrap=True, overflow="ellipsis")


@contextmanager
def plan_progress() -> Iterator[PlanProgress]:
    """What shows the numbers on stderr while the block lasts, if that is a terminal; they are erased at the end."""
    progress = PlanProgress()
    with drawn(progress):
        yield progress


@contextmanager
def drawn(progress: ConsoleRenderable) -> Iterator[None]:
    """Draw `progress` on stderr while the block lasts, if that is a terminal; it is erased at the end."""
    console = Console(stderr=True, highlight=False)
    if console.is_dumb_terminal or not console.is_terminal:
        yield
        return
    with Live(
        progress,
        console=console,
        refresh_per_second=REDRAWS_A_SECOND,
        transient=True,
        redirect_stdout=False,
    ):
        yield
