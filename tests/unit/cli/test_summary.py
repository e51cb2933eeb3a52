"""The block at the end: what became of every row, and what to do next."""

import json

import pytest
from support.shown import HOSTILE, summary

from bulkfetch.cli.summary import print_summary, summary_text


def test_a_complete_summary_asks_for_nothing():
    """Exit 0 is called complete, with counts, reasons, size and rate, and where the manifest is."""
    text = summary_text(summary(stored=1234, skipped=5)).plain
    assert text.splitlines()[1] == "complete  1,239 rows in 1 min 0 s"
    assert "stored     1,234   3.0 MiB, 20.6 files/s" in text
    assert "skipped        5   already_stored 5" in text
    assert "links 12 (3 refused) · downloads 9\n" in text
    assert "no rows" not in text
    assert "/srv/archive/manifests/r1.jsonl" in text
    assert "next" not in text


def test_failures_are_broken_down_the_most_frequent_first():
    """Failed rows are listed by reason, without those of skipped and rejected ones."""
    text = summary_text(summary(4, stored=1, failed=11, rejected=1)).plain
    assert "failed        11   not_found 9 · timeout 2\n" in text
    assert "rejected       1   invalid_id 1\n" in text


def test_lines_that_are_no_rows_are_told_apart():
    """Blank lines, comments and the like are counted beside the rows; kinds that did not come are left out."""
    lines = {"blank": 1200, "comment": 0, "header": 1}
    assert "  no rows     1,200 blank · 1 header\n" in summary_text(summary(lines=lines, stored=1)).plain


AGAIN = "run the same command again"


@pytest.mark.parametrize(
    ("exit_code", "stopped_by", "finished", "headline", "advice"),
    [
        (3, None, True, "finished, but not complete: 2 failed  3 rows", f"mend it, then {AGAIN}"),
        (4, None, True, "finished, but not complete: 2 failed  3 rows", f"{AGAIN} to try the 2 failed ones"),
        (
            3,
            "9 were expected",
            True,
            "finished, but not complete: 2 failed; 9 were expected  3",
            f"mend it, then {AGAIN}",
        ),
        (5, "token refused", False, "stopped, not finished: token refused  3 rows", f"{AGAIN}: it goes on from here"),
        (5, "no broker", True, "stopped, though every row has an outcome: no broker", f"{AGAIN}: it goes on from here"),
        (130, "SIGINT", False, "interrupted, not finished  3 rows", f"{AGAIN}: it goes on from here"),
        (143, "SIGTERM", True, "interrupted, though every row has an outcome  3", f"{AGAIN}: it goes on from here"),
    ],
)
def test_the_summary_says_what_it_is_and_what_to_do_next(exit_code, stopped_by, finished, headline, advice):
    """Each end of a run has its headline, which never takes finished for complete, and its next step."""
    text = summary_text(summary(exit_code, finished=finished, stopped_by=stopped_by, stored=1, failed=2)).plain
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
