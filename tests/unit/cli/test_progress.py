"""The display on a terminal: it counts, fits, and shows nothing foreign as it is."""

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console
from support.shown import HOSTILE, recorded

from bulkfetch.cli.progress import ProgressListener, display
from bulkfetch.errors import Reason
from bulkfetch.events import (
    Backlog,
    Estimated,
    Note,
    OriginDown,
    OriginUp,
    RetryScheduled,
    RunStarted,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(listener: ProgressListener, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(listener)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_display_counts_and_extrapolates():
    """Share, rate and time left follow from the rows recorded so far and the clock."""
    clock = Clock()
    progress = ProgressListener(clock)
    progress(RunStarted("r1", "ids.csv", "archive", 1000))
    for outcome, number in (("stored", 60), ("skipped", 30), ("failed", 8), ("rejected", 2)):
        for _ in range(number):
            progress(recorded(outcome))
    progress(RetryScheduled("inv_1", Reason.TIMEOUT, "slow", 1.0))
    clock.now += 10
    first, second = drawn(progress)
    assert "10%  100 / 1,000  6.0 files/s  1 min 30 s left" in first
    assert second.strip() == "stored 60 · skipped 30 · failed 8 · rejected 2 · retries 1"


def test_the_rate_is_of_the_last_seconds():
    """A fast start does not flatter the rate for the rest of the run."""
    clock = Clock()
    progress = ProgressListener(clock)
    progress(Estimated(10_000))
    for _ in range(5000):
        progress(recorded("stored"))
    for _ in range(100):
        clock.now += 1
        progress(recorded("stored"))
        first, _ = drawn(progress)
    assert "  1.0 files/s" in first


@pytest.mark.parametrize("total", [None, 0, 3])
def test_without_a_usable_total_no_share_is_claimed(total):
    """An unknown total, or one that was passed, shows neither a percentage nor a time."""
    progress = ProgressListener(Clock())
    progress(Estimated(total))
    for _ in range(4):
        progress(recorded("stored"))
    first, _ = drawn(progress)
    assert "4 rows" in first
    assert "%" not in first
    assert "left" not in first


def test_a_pause_is_shown_and_counts_down():
    """While a gate is closed the display says for how long and why."""
    clock = Clock()
    progress = ProgressListener(clock)
    progress(OriginDown("API", 12.0, "429"))
    assert drawn(progress)[2].strip() == "paused 12 s (429 from API)"
    clock.now += 20
    assert drawn(progress)[2].strip() == "paused (429 from API)"
    progress(OriginUp("API"))
    assert len(drawn(progress)) == 2


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_display_fits_any_terminal(width):
    """Each line stays one line; the bar gives way first, so that the figures stay whole while they can."""
    progress = ProgressListener(Clock())
    progress(RunStarted("r1", "s", "d", 12_345_678))
    for _ in range(50):
        progress(recorded("failed"))
    progress(OriginDown("https://files.example.com", 12.0, "503"))
    lines = drawn(progress, width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert ("0%  50 / 12,345,678  0.0 files/s  unknown left" in lines[0]) == (width >= 60)


def test_a_worker_of_a_queue_shows_what_is_left_instead_of_a_share():
    """How much of a queue one worker will get nobody knows: what is left for all is shown, or that it is empty."""
    progress = ProgressListener(Clock())
    progress(RunStarted("run-1", "nats://127.0.0.1:4222/invoices", "/archive", None))
    progress(Backlog(1200, 48))
    first, _ = drawn(progress)
    assert "1,200 waiting, 48 in all workers' hands" in first
    assert "left" not in first
    progress(Backlog(0, 0))
    first, _ = drawn(progress)
    assert "the queue is empty" in first


SHOW_HOSTILE = f"""
from bulkfetch.cli.summary import print_summary
from bulkfetch.cli.progress import display
from bulkfetch.errors import Reason
from bulkfetch.events import OriginDown, Note
with display(log_format="text", verbosity=2, rows_to_stdout=False) as listeners:
    for listener in listeners:
        listener(Note("warning", {HOSTILE!r}))
        listener(OriginDown("API", 5.0, {HOSTILE!r}))
"""


def on_a_terminal(script: str, **environ: str) -> bytes:
    """What `script` writes on stderr, which is a terminal."""
    reader, writer = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "100", **environ}
    process = subprocess.Popen([sys.executable, "-c", script], stderr=writer, env=environment)
    os.close(writer)
    chunks = []
    try:
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    except OSError:  # Linux reports the end of a pseudo-terminal so
        pass
    os.close(reader)
    assert process.wait(timeout=30) == 0
    return b"".join(chunks)


def test_a_terminal_gets_the_display_and_no_foreign_control_characters():
    """On a terminal the display is drawn, and what came from outside arrives escaped, markup included."""
    seen = on_a_terminal(SHOW_HOSTILE)
    assert b"stored 0" in seen
    assert b"\\u001b]0;owned\\u0007\\u009b31m\\u202e\\u000d\\u000a[bold]" in seen
    assert b"\x1b]0;" not in seen
    assert b"\xc2\x9b" not in seen


def test_no_color_is_honoured():
    """With NO_COLOR set no colour is sent."""
    assert b"\x1b[33m" in on_a_terminal(SHOW_HOSTILE)
    assert b"\x1b[33m" not in on_a_terminal(SHOW_HOSTILE, NO_COLOR="1")


def test_off_a_terminal_there_is_no_display(capsys):
    """A log file gets stamped lines and no drawing."""
    with display(log_format="text", verbosity=0, rows_to_stdout=False) as listeners:
        for listener in listeners:
            listener(Note("warning", "clock is off"))
    err = capsys.readouterr().err
    assert err.endswith("Z warning clock is off\n")
    assert "\x1b" not in err
    assert len(listeners) == 1
