"""What a person sees of a run: the display, the log lines, the rows as JSON, and the summary."""

import io
import json
import os
import pty
import subprocess
import sys
import unicodedata

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from bulkfetch.app import CheckResult, Plan
from bulkfetch.cli.log import JsonLogListener, JsonRowsListener, Level, LogListener, sentence, threshold
from bulkfetch.cli.output import as_json, human_bytes, human_seconds, print_checks, print_plan
from bulkfetch.cli.progress import ProgressListener, display
from bulkfetch.cli.summary import print_summary, summary_text
from bulkfetch.errors import Reason
from bulkfetch.events import (
    Backlog,
    Estimated,
    Event,
    Note,
    OriginDown,
    OriginUp,
    RetryScheduled,
    RowRecorded,
    RunFinished,
    RunStarted,
    RunStopping,
)
from bulkfetch.models import Counts, Outcome, Row, Summary

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\r\n[bold]"


def recorded(
    outcome: str, invoice_id: str = "inv_1", reason: Reason | None = None, message: str | None = None
) -> RowRecorded:
    return RowRecorded(
        Row(
            run="r1",
            invoice_id=invoice_id,
            outcome=Outcome(outcome),
            reason=reason,
            message=message,
            started_at="2026-01-01T00:00:00.000Z",
            finished_at="2026-01-01T00:00:01.000Z",
            line=7,
            key="inv_1.pdf",
            size=2048,
        )
    )


def summary(exit_code: int = 0, *, stopped_by: str | None = None, **counts: int) -> Summary:
    return Summary(
        run="r1",
        exit_code=exit_code,
        complete=exit_code == 0,
        stopped_by=stopped_by,
        started_at="",
        finished_at="",
        seconds=60.0,
        counts=Counts(read=sum(counts.values()), **counts),
        reasons={"already_stored": 5, "timeout": 2, "not_found": 9, "connection": 0, "invalid_id": 1},
        bytes_stored=3 * 1024**2,
        requests={"links": 12, "refused": 3},
        source="ids.csv",
        input_sha256=None,
        input_bytes=None,
        destination="/srv/archive/",
        versions={},
        manifest="r1.jsonl",
        manifest_rows=sum(counts.values()),
        manifest_sha256="",
        previous=None,
        previous_sha256=None,
        beside={},
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


EVERY: list[Event] = [
    RunStarted("r1", "ids.csv", "archive", 10),
    recorded("stored"),
    recorded("skipped", reason=Reason.DUPLICATE),
    recorded("failed", reason=Reason.NOT_FOUND, message="404"),
    recorded("rejected", reason=Reason.INVALID_ID, message="too long"),
    RetryScheduled("inv_2", Reason.SERVER_ERROR, "500 from API", 1.25),
    OriginDown("API", 12.0, "429"),
    OriginUp("API"),
    Estimated(11),
    Note("info", "canary passed"),
    Note("warning", "clock is off"),
    Note("error", "disk is slow"),
    RunStopping("interrupted by SIGTERM"),
    RunFinished(summary()),
]


@pytest.mark.parametrize(
    ("verbosity", "lines"),
    [
        (-1, ["disk is slow"]),
        (
            0,
            [
                "inv_1 failed: not_found: 404",
                "line 7: inv_1 rejected: invalid_id: too long",
                "clock is off",
                "disk is slow",
            ],
        ),
        (
            1,
            [
                "run r1: ids.csv to archive",
                "inv_1 failed: not_found: 404",
                "line 7: inv_1 rejected: invalid_id: too long",
                "inv_2: server_error: 500 from API; again in 1.2 s",
                "paused 12 s (429 from API)",
                "resumed (API)",
                "canary passed",
                "clock is off",
                "disk is slow",
                "stopping: interrupted by SIGTERM",
            ],
        ),
    ],
)
def test_what_is_told_at_which_verbosity(verbosity, lines):
    """-q: errors; nothing: warnings and failures too; -v: retries and pauses too."""
    told: list[str] = []
    listener = LogListener(lambda _, line: told.append(line), threshold(verbosity))
    for event in EVERY:
        listener(event)
    assert told == lines


def test_twice_verbose_tells_every_row():
    """-vv names each stored and skipped invoice."""
    told: list[str] = []
    listener = LogListener(lambda _, line: told.append(line), threshold(2))
    for event in EVERY:
        listener(event)
    assert "inv_1 stored: inv_1.pdf, 2.0 KiB" in told
    assert "inv_1 skipped: duplicate" in told


def test_a_flood_of_failures_is_cut_off():
    """After the first failures one line says that the others are only counted; -v tells them all."""
    told: list[str] = []
    listener = LogListener(lambda _, line: told.append(line), Level.WARNING, failures=3)
    for number in range(50):
        listener(recorded("failed", f"inv_{number}"))
    listener(Note("warning", "still here"))
    assert told[:3] == ["inv_0 failed", "inv_1 failed", "inv_2 failed"]
    assert "manifest" in told[3]
    assert told[4:] == ["still here"]
    told.clear()
    listener = LogListener(lambda _, line: told.append(line), Level.INFO, failures=3)
    for number in range(50):
        listener(recorded("failed", f"inv_{number}"))
    assert len(told) == 50


def test_json_logs_are_one_object_a_line(capsys):
    """Each line of a JSON log has time, level, event and message, and what the event is about."""
    listener = JsonLogListener(Level.INFO)
    for event in EVERY:
        listener(event)
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in err.splitlines()]
    assert out == ""
    assert len(records) == 10
    assert all({"time", "level", "event", "message"} <= record.keys() for record in records)
    assert [record["event"] for record in records if "origin" in record] == ["OriginDown", "OriginUp"]
    failed = next(record for record in records if record.get("outcome") == "failed")
    assert (failed["level"], failed["invoice_id"], failed["reason"]) == ("warning", "inv_1", "not_found")


def test_rows_on_stdout_are_the_manifest_rows(capsys):
    """--json writes the rows, each as it stands in the manifest, and nothing else."""
    listener = JsonRowsListener()
    for event in EVERY:
        listener(event)
    out, err = capsys.readouterr()
    rows = [msgspec.json.decode(line, type=Row) for line in out.splitlines()]
    assert rows == [event.row for event in EVERY if isinstance(event, RowRecorded)]
    assert err == ""


@given(st.text(max_size=60))
@example("\x7f\x9b\u202e\U000e0001")
def test_nothing_foreign_steers_a_terminal(text):
    """Whatever the text of an event, its line holds no control character, and its JSON is printable ASCII."""
    events: list[Event] = [
        recorded("failed", text, Reason.NOT_FOUND, text),
        RetryScheduled(text, Reason.TIMEOUT, text, 1.0),
        OriginDown(text, 1.0, text),
        RunStopping(text),
        Note("error", text),
    ]
    for event in events:
        assert not {unicodedata.category(char) for char in sentence(event)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    encoded = as_json({"text": text})
    assert encoded.isascii()
    assert encoded.isprintable()
    assert json.loads(encoded) == {"text": text}


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


def test_a_reader_that_leaves_does_not_end_the_run():
    """`--json | head -1`: rows without a reader are dropped, and the program goes on to its own end."""
    script = """
import sys
from bulkfetch.cli.log import JsonRowsListener
from bulkfetch.events import RowRecorded
from bulkfetch.models import Outcome, Row
listener = JsonRowsListener()
event = RowRecorded(Row(run="r", invoice_id="i", outcome=Outcome.STORED, started_at="", finished_at=""))
for _ in range(100):
    listener(event)
print("done", file=sys.stderr)
"""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, timeout=30)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"done\n")


def test_a_complete_summary_asks_for_nothing():
    """Exit 0 is called complete, with counts, reasons, size and rate, and where the manifest is."""
    text = summary_text(summary(stored=1234, skipped=5)).plain
    assert text.splitlines()[1] == "complete  1,239 rows in 1 min 0 s"
    assert "stored     1,234   3.0 MiB, 20.6 files/s" in text
    assert "skipped        5   already_stored 5" in text
    assert "links 12 · refused 3" in text
    assert "/srv/archive/manifests/r1.jsonl" in text
    assert "next" not in text


def test_failures_are_broken_down_the_most_frequent_first():
    """Failed rows are listed by reason, without those of skipped and rejected ones."""
    text = summary_text(summary(4, stored=1, failed=11, rejected=1)).plain
    assert "failed        11   not_found 9 · timeout 2\n" in text
    assert "rejected       1   invalid_id 1\n" in text


@pytest.mark.parametrize(
    ("exit_code", "stopped_by", "headline", "advice"),
    [
        (3, None, "finished with failures", "mend it, then run the same command again"),
        (4, None, "finished with failures", "run the same command again to try the 2 failed ones"),
        (5, "token refused", "stopped: token refused", "run the same command again: it goes on from here"),
        (130, "SIGINT", "interrupted", "run the same command again: it goes on from here"),
        (143, "SIGTERM", "interrupted", "run the same command again: it goes on from here"),
    ],
)
def test_the_summary_says_what_to_do_next(exit_code, stopped_by, headline, advice):
    """Each end of a run has its headline and its next step."""
    text = summary_text(summary(exit_code, stopped_by=stopped_by, stored=1, failed=2)).plain
    assert text.splitlines()[1].startswith(headline)
    assert advice in text


def test_the_summary_is_on_stderr_in_the_form_asked_for(capsys):
    """The summary is a block for people, or one JSON object in a line; stdout stays for data."""
    hostile = summary(5, stopped_by=HOSTILE, stored=1)
    print_summary(hostile, "text")
    out, err = capsys.readouterr()
    assert out == ""
    assert "\\u001b]0;owned" in err
    print_summary(hostile, "json")
    out, err = capsys.readouterr()
    assert out == ""
    record = json.loads(err)
    assert record["event"] == "Summary"
    assert record["summary"]["exit_code"] == 5


def test_a_plan_is_a_table_or_an_object(capsys):
    """A plan is numbers and the first problems, safe to print; with --json it is one object."""
    plan = Plan(
        read=12_345, to_fetch=12_000, rejected=1, problems=[(7, f"bad {HOSTILE}"), (None, "odd")], seconds_at_rate=240.0
    )
    print_plan(plan, to_json=False)
    out = capsys.readouterr().out
    assert "to fetch        12,000\n" in out
    assert "takes at least  4 min 0 s" in out
    assert "  line 7: bad \\u001b]0;owned" in out
    assert "  odd\n" in out
    print_plan(plan, to_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["rejected"] == 1
    assert shown["problems"] == [[7, f"bad {HOSTILE}"], [None, "odd"]]


def test_checks_are_marked(capsys):
    """Each check has a line with its mark: passed, failed, or not applicable."""
    print_checks(
        [CheckResult("api", True, "200"), CheckResult("disk", False, HOSTILE), CheckResult("probe", None, "-")]
    )
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["✓", "api", "200"]
    assert second.startswith("✗  disk   \\u001b]0;owned")
    assert third.split() == ["\N{EN DASH}", "probe", "-"]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_bytes(0), "0 B"),
        (human_bytes(1023), "1023 B"),
        (human_bytes(1536), "1.5 KiB"),
        (human_bytes(5 * 1024**5), "5120.0 TiB"),
        (human_seconds(0.25), "0.2 s"),
        (human_seconds(59.6), "1 min 0 s"),
        (human_seconds(3599.9), "1 h 0 min"),
        (human_seconds(360_000), "100 h 0 min"),
    ],
)
def test_numbers_for_people(shown, expected):
    """Bytes have a binary unit, times their two largest units."""
    assert shown == expected


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
