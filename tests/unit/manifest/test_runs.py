"""Runs: names that sort, and the files that belong to them."""

import os
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import RUNS, begin

from bulkfetch.errors import FatalError
from bulkfetch.manifest import list_runs, new_run_id

NO_MOMENTS = ["99999999T999999Z-0a1b2c.jsonl", "99991231T235959Z-0a1b2c.json", "20250229T000000Z-0a1b2c.jsonl"]
"""Names in the form of a run's, whose moment is none of the calendar, or its last one."""


def test_a_run_id_is_utc_and_random():
    """A run ID tells the second in UTC, whatever the clock's zone, and two of one second differ."""
    moment = datetime(2025, 1, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=2)))
    ids = {new_run_id(moment) for _ in range(20)}
    assert len(ids) > 1
    assert all(run.startswith("20250131T215959Z-") for run in ids)


@given(st.integers(-100_000, 100_000))
def test_a_run_id_sorts_behind_the_last_one(seconds):
    """However the clock was set in between, the later run sorts later."""
    moment = datetime(2025, 1, 31, tzinfo=UTC)
    last = new_run_id(moment)
    assert new_run_id(moment + timedelta(seconds=seconds), after=last) > last


def test_other_files_are_no_runs(tmp_path):
    """Only names of run IDs are runs: what else lies beside them is left alone."""
    begin(tmp_path, RUNS[0])
    for name in ("notes.json", f"{RUNS[1]}.jsonl.bak", "README", *NO_MOMENTS):
        (tmp_path / "manifests" / name).touch()
    assert [run.id for run in list_runs(tmp_path)] == RUNS[:1]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_what_is_no_file_is_refused_in_a_manifests_place(tmp_path, make, suffix):
    """A named pipe is not waited for, and what cannot be read is not taken for an empty manifest."""
    begin(tmp_path, RUNS[0])
    make(tmp_path / "manifests" / f"{RUNS[1]}.{suffix}")
    with pytest.raises(FatalError, match=rf"{RUNS[1]}\.{suffix} is no file"):
        list_runs(tmp_path)
