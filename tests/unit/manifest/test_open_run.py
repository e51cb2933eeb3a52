"""What a run finds when it opens an archive: whether there may be objects without a row."""

import pytest
from support.runs import RUNS, begin, finish

from bulkfetch.manifest.open_run import must_adopt


@pytest.mark.parametrize(
    ("history", "adopting"),
    [
        ([], False),
        (["died"], True),
        (["finished"], False),
        (["finished", "stopped"], False),
        (["died", "finished"], False),
        (["died", "stopped"], True),
        (["finished", "died"], True),
        (["finished", "damaged"], True),
    ],
)
def test_when_objects_without_a_row_are_looked_for(tmp_path, history, adopting):
    """Only a run that died after the last complete one makes the next run look."""
    for run, end in zip(RUNS, history, strict=False):
        if end == "died":
            begin(tmp_path, run)
        else:
            finish(tmp_path, run, finished=end != "stopped")
        if end == "damaged":
            (tmp_path / "manifests" / f"{run}.json").write_bytes(b"{")
    assert must_adopt(tmp_path) == adopting


def test_the_end_of_a_run_beside_others_settles_nothing_of_another_that_died(tmp_path):
    """Objects without a row are looked for until a run that had the archive for itself was complete."""
    begin(tmp_path, RUNS[0])
    finish(tmp_path, RUNS[1], shared=True)
    assert must_adopt(tmp_path)
    finish(tmp_path, RUNS[2])
    assert not must_adopt(tmp_path)


def test_foreign_files_are_looked_for(tmp_path):
    """A directory that somebody else filled before the first run is searched; an empty or missing one is not."""
    (tmp_path / ".bulkfetch").mkdir()
    assert not must_adopt(tmp_path)
    assert not must_adopt(tmp_path / "missing")
    (tmp_path / "INV-1.pdf").touch()
    assert must_adopt(tmp_path)
