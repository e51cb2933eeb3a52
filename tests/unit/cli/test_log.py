"""Log lines and rows as JSON: what is told, and that nothing foreign steers a terminal."""

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.shown import recorded, summary

from bulkfetch.cli.log import JsonLogListener, Level, LogListener, sentence, threshold
from bulkfetch.cli.output import as_json
from bulkfetch.errors import Reason
from bulkfetch.events import (
    Estimated,
    Event,
    Note,
    OriginDown,
    OriginUp,
    RetryScheduled,
    RunFinished,
    RunStarted,
    RunStopping,
)

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


@given(st.text(max_size=60))
@example("\x7f\x9b\u202e\U000e0001")
def test_nothing_foreign_steers_a_terminal(text):
    """Whatever the text of an event, its line holds no control character, and its JSON is printable ASCII."""
    events: list[Event] = [
        RetryScheduled(text, Reason.TIMEOUT, text, 1.0),
        OriginDown(text, 1.0, text),
        RunStopping(text),
        Note("error", text),
    ]
    for told in [recorded("failed", text, Reason.NOT_FOUND, text).rows[0], *events]:
        assert not {unicodedata.category(char) for char in sentence(told)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    encoded = as_json({"text": text})
    assert encoded.isascii()
    assert encoded.isprintable()
    assert json.loads(encoded) == {"text": text}
