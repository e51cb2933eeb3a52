"""The notes of runs at work: on a disk they tell whether their run is alive."""

import os

import msgspec
import pytest
from support.rows import NOW, row

from bulkfetch.manifest import encode_rows
from bulkfetch.manifest.runs_at_work import (
    RunNote,
    announced,
    decode_note,
    forget_note,
    last_row_at,
    note_key,
    read_note,
)

RUN = "20250131T000000Z-0000aa"
NOTE = RunNote(run=RUN, source="ids.txt", estimate=7, host="here", pid=os.getpid(), started_at=NOW)


def test_a_note_tells_whether_its_run_is_alive(tmp_path):
    """It can be read while the run is at work and after it died; none is left of a run that ended."""
    assert read_note(tmp_path, RUN) == (None, False)
    with announced(tmp_path, NOTE):
        assert read_note(tmp_path, RUN) == (NOTE, True)
        assert read_note(tmp_path, RUN) == (NOTE, True)
    assert read_note(tmp_path, RUN) == (NOTE, False)
    forget_note(tmp_path, RUN)
    forget_note(tmp_path, RUN)
    assert read_note(tmp_path, RUN) == (None, False)


@pytest.mark.parametrize("data", [b"", b"{", b'{"v":2}', b"[]"])
def test_what_is_no_note_is_none(tmp_path, data):
    """A note that is being written, or is of a newer version, says nothing; whether the run is alive is known still."""
    assert decode_note(data) is None
    with announced(tmp_path, NOTE):
        (tmp_path / note_key(RUN)).write_bytes(data)
        assert read_note(tmp_path, RUN) == (None, True)


def test_the_last_whole_row_is_the_last_sign(tmp_path):
    """A torn line behind it does not count, whatever the length of the rows."""
    manifest = tmp_path / f"{RUN}.jsonl"
    assert last_row_at(None) is None
    manifest.touch()
    assert last_row_at(manifest) is None
    last = msgspec.structs.replace(row("2", message="y" * 40_000), finished_at="2025-02-01T00:00:00.000Z")
    manifest.write_bytes(encode_rows([row("1", message="x" * 70_000), last]) + b'{"v":1,"finished_at":"2030')
    assert last_row_at(manifest) == "2025-02-01T00:00:00.000Z"
