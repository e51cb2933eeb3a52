"""What a terminal shows while a plan is made."""

import io

from rich.console import Console

from bulkfetch.cli.plan_progress import PlanProgress, plan_progress


def drawn(progress):
    """The display as text."""
    console = Console(file=io.StringIO(), width=80)
    console.print(progress)
    return console.file.getvalue()


def test_rows_and_their_rate_are_shown():
    """Rows so far and rows a second; with an estimate also how far the plan is."""
    times = iter([10.0, 12.0, 14.0])
    progress = PlanProgress(clock=lambda: next(times))
    progress(3_000, None)
    assert drawn(progress) == "3,000 rows  1,500 rows/s\n"
    progress(8_000, 16_000)
    assert drawn(progress) == " 50%  8,000 / 16,000 rows  2,000 rows/s\n"


def test_nothing_is_said_where_there_is_no_terminal(capsys):
    """Without a terminal stderr stays empty."""
    with plan_progress() as progress:
        progress(5, None)
    assert capsys.readouterr() == ("", "")
