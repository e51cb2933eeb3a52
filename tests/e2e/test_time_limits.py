"""Runs that end before their input does, because they were told to."""

import time
from datetime import datetime, timedelta
from functools import partial

import anyio
import pytest
from support.program import assert_sound, bulkfetch, ids_of, objects, rows, sandbox, summary, write_ids

from bulkfetch.app import time_limits
from bulkfetch.config import Limits
from bulkfetch.pipeline.stop import Stop


def test_a_limit_is_a_nights_portion(tmp_path):
    """N invoices are fetched, with what fails of them tried to its end; the same command again fetches the next N, and
    the last one, which leaves nothing, is complete."""
    with sandbox(invoices=50, faults={"errors": 0.1}) as served:
        ids = ids_of(served)
        source, dest = write_ids(tmp_path / "ids.txt", [*ids[:5], ids[0], *ids[5:]]), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url, "--limit", 20)
        for night, code in ((1, 5), (2, 5), (3, 0)):
            done = bulkfetch(*args)
            assert done.returncode == code, done.stderr
            told = summary(dest)
            assert told.counts.stored == min(20, 50 - 20 * (night - 1))
            assert len(objects(dest)) == min(20 * night, 50)
            if code:
                assert told.stopped_by == "the limit of 20 invoices is reached (source.limit)"
                assert "stopped, not finished: the limit of 20" in done.stderr
    assert [row.reason for row in rows(dest)].count("already_stored") == 40
    assert_sound(dest)


def test_a_limit_that_is_the_whole_input_is_no_stop(tmp_path):
    """A run that has fetched its limit and finds nothing more is complete."""
    with sandbox(invoices=10) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url, "--limit", 10).returncode == 0
    assert summary(dest).counts.stored == 10


def test_a_run_ends_after_its_time(tmp_path):
    """What is in hand at that moment is finished, the summary says why it ended, and the next run completes it."""
    with sandbox(invoices=300, faults={"latency": 0.1}) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        args = ("run", source, "--to", dest, "--api-url", served.api_url)
        done = bulkfetch(*args, "--workers", 4, "--max-duration", 2)
        assert done.returncode == 5, done.stderr
        told = summary(dest)
        assert told.stopped_by == "2 seconds are over (limits.max_duration)"
        assert 0 < told.counts.stored == told.counts.read < 300
        assert bulkfetch(*args).returncode == 0
        assert max(served.stats.gets.values()) == 1
    assert len(objects(dest)) == 300


def test_a_run_ends_at_its_hour(monkeypatch):
    """The moment at which the clock shows the hour stops the run, with the exit code of a run to be resumed."""
    monkeypatch.setattr(time_limits, "next_moment", lambda _, now: now + timedelta(seconds=0.3))
    stop, began = Stop(), time.monotonic()
    anyio.run(partial(time_limits.stop_in_time, Limits(until="06:00"), stop, began=0))
    assert time.monotonic() - began >= 0.25
    assert (str(stop.cause), stop.cause.exit_code) == ("it is 06:00 (limits.until)", 5)


@pytest.mark.parametrize(
    ("now", "until", "hours"), [("22:00", "06:00", 8), ("05:30", "06:00", 0.5), ("06:00", "06:00", 24)]
)
def test_an_hour_is_the_next_one_of_that_name(now, until, hours):
    """Tonight or tomorrow, whichever comes first."""
    moment = datetime.fromisoformat(f"2025-01-31T{now}:00")
    assert time_limits.next_moment(until, moment) - moment == timedelta(hours=hours)


@pytest.mark.parametrize("until", ["24:00", "6:00", "noon", "06:60"])
def test_what_is_no_hour_is_refused(until):
    """A typing error is not taken for "never"."""
    done = bulkfetch("run", "ids.txt", "--to", "x", "--until", until)
    assert done.returncode == 2
    assert "--until must be a time of day as HH:MM, such as 06:00" in done.stderr
