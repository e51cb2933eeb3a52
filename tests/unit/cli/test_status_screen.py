"""The screen of `status`: what stands on it, at what width, and that nothing in it can steer a terminal."""

import pytest
from support.shown import HOSTILE

from bulkfetch.app.run_history import PastRun, RunAtWork
from bulkfetch.app.status import Status, Verification
from bulkfetch.cli.status_screen import status_text
from bulkfetch.manifest.overview import AcceptedGaps, Gap, RejectedRows, UnresolvedReason
from bulkfetch.models import Counts

AT = "2026-03-04T12:00:00.000Z"
RUN = "20260303T010000Z-0000aa"
UUIDS = [f"{number}475add3-0bbe-4a7f-9f59-1fe68f0af346" for number in range(3)]


def a_status(word="word", **more):
    """A status with something in each part."""
    past = PastRun(
        run=RUN,
        source=f"/exports/{word}/a-long-folder/and-another-one/invoices.csv",
        started_at="2026-03-03T12:00:00.000Z",
        finished_at="2026-03-03T13:00:00.000Z",
        seconds=3600.0,
        exit_code=5,
        stopped_by=f"the API at https://tenant.coreapi.io refuses the token with 401 {word}: renew it, and go on",
        counts=Counts(read=1_234_567, stored=1_200_000, skipped=34_000, failed=567),
    )
    at_work = RunAtWork(
        run=RUN,
        source=word,
        estimate=1000,
        host=word,
        pid=77,
        started_at="2026-03-04T11:00:00.000Z",
        rows=250,
        last_row_at="2026-03-04T11:59:00.000Z",
        silent_since=None,
    )
    columns = {
        "at": AT,
        "destination": f"/archive/{word}",
        "source": None,
        "exit_code": 5,
        "last_run": past,
        "stored": 1_200_000,
        "unresolved": [
            UnresolvedReason("timeout", True, 560, "2026-02-01T12:00:00.000Z", UUIDS),
            UnresolvedReason("not_found", False, 7, "2026-03-03T12:00:00.000Z", [word]),
        ],
        "rejected": [RejectedRows(word, RUN, "invalid_id", 2)],
        "accepted": AcceptedGaps(12, [Gap(word, f"cancelled {word}", "2026-03-01T12:00:00.000Z")], 3),
        "at_work": [at_work],
        "runs": [past],
        "verification": Verification(
            run_at="2026-03-02T12:00:00.000Z", kind="full", checked=10, missing=1, damaged=0, extra=2, unmended=1
        ),
    }
    return Status(**(columns | more))


def lines(status, width=80):
    return status_text(status, width).plain.split("\n")


def test_what_stands_where():
    """Subject first: each part under its label, what comes below each other aligned."""
    shown = lines(a_status())
    assert shown[:2] == ["/archive/word", "the newest run stopped early"]
    text = "\n".join(shown)
    for part in (
        "last run      stopped: the API at https://tenant.coreapi.io",
        "              1,234,567 rows: 1,200,000 stored, 34,000 skipped, 567 failed",
        "at work       word, since",
        "              250 of about 1,000 rows, 25%, about 3 h 0 min left",
        "stored        1,200,000 invoices",
        "unresolved    560  timeout     since 2026-02-01",
        "                7  not_found   since",
        "                2  invalid_id  in word",
        "accepted      12 gaps",
        "                and 11 more",
        "              3 rejected rows",
        "10 objects: 1 missing, 2 extra;",
        "next\n  the command of that run again\n",
    ):
        assert part in text, part
    assert ["last", "runs", "took", "stored", "failed", "verdict", "source"] in [line.split() for line in shown]


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(width):
    """No line is wider than the terminal, and more IDs are named where there is room."""
    shown = lines(a_status(), width)
    assert max(map(len, shown)) <= width
    assert sum(line.count("475add3") for line in shown) == (1 if width == 80 else 2)


def test_an_archive_in_which_all_is_well_is_quickly_read():
    """Nothing to do, nothing to say."""
    shown = lines(
        a_status(
            exit_code=0, unresolved=[], rejected=[], accepted=AcceptedGaps(0, [], 0), at_work=[], verification=None
        )
    )
    text = "\n".join(shown)
    assert shown[1] == "complete: nothing is unresolved"
    assert "unresolved    none" in text
    assert "accepted      no gaps" in text
    assert "verified      never" in text
    assert "next" not in text


def test_a_silent_run_is_called_so():
    """Where no row came for long, that is said in place of a forecast."""
    silent = a_status().at_work[0].__class__(
        run=RUN, source=None, estimate=None, host=None, pid=None, started_at="2026-03-04T11:00:00.000Z", rows=1,
        last_row_at="2026-03-04T11:30:00.000Z", silent_since="2026-03-04T11:30:00.000Z",
    )  # fmt: skip
    text = "\n".join(lines(a_status(at_work=[silent])))
    assert "1 row; silent since" in text
    assert "unknown source, since" in text


def test_nothing_steers_the_terminal():
    """Names, reasons and IDs from outside are escaped."""
    shown = status_text(a_status(HOSTILE), 120).plain
    assert all(char.isprintable() or char == "\n" for char in shown)
