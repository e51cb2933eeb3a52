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
