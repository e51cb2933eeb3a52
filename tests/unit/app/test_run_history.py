"""Which runs are over and which are at work, by what they have left."""

from datetime import UTC, datetime, timedelta

import msgspec
from support.runs import RUNS, accept, begin, finish

from bulkfetch.app.look import Place
from bulkfetch.app.run_history import read_runs
from bulkfetch.manifest.runs_at_work import RunNote, announced, note_key
from bulkfetch.models import utc_iso

NOW = datetime(2025, 1, 3, 12, tzinfo=UTC)


class Bucket:
    """A bucket that holds notes."""

    def __init__(self, *notes: RunNote) -> None:
        self._held = {note_key(note.run): msgspec.json.encode(note) for note in notes}

    def read(self, key: str) -> bytes:
        """The note."""
        if key not in self._held:
            raise FileNotFoundError
        return self._held[key]


def note(run: str, ago: timedelta, source: str = "ids.txt") -> RunNote:
    return RunNote(run=run, source=source, estimate=4, host="there", pid=1, started_at=utc_iso(NOW - ago))


def on_disk(root):
    return Place(str(root), root, None)


def test_on_a_disk_the_note_tells_what_is_alive(tmp_path):
    """A run whose note is held is at work, however silent; another one without a summary died, unless it has only just
    begun. What a person recorded is no run."""
    finish(tmp_path, RUNS[0])
    begin(tmp_path, RUNS[1])
    accept(tmp_path, ["x"], "why")
    with announced(tmp_path, note(RUNS[1], timedelta(hours=1))):
        history = read_runs(on_disk(tmp_path), NOW, None)
        assert [run.run for run in history.past] == [RUNS[0]]
        (at_work,) = history.at_work
        assert (at_work.run, at_work.rows, at_work.estimate) == (RUNS[1], 2, 4)
        assert at_work.silent_since == utc_iso(NOW - timedelta(hours=1))
        assert not at_work.may_be_dead
        assert not history.stopped_early
    history = read_runs(on_disk(tmp_path), NOW, None)
    assert [(run.run, run.exit_code) for run in history.past] == [(RUNS[1], None), (RUNS[0], 0)]
    assert history.stopped_early
    (tmp_path / note_key(RUNS[1])).unlink()
    just_begun = datetime(2025, 1, 2, 0, 0, 30, tzinfo=UTC)
    assert len(read_runs(on_disk(tmp_path), just_begun, None).at_work) == 1


def test_in_a_bucket_silence_is_all_there_is(tmp_path):
    """Ten minutes without a sign: silent, and perhaps dead, which counts as stopped early; a day: dead. A worker of a
    queue may simply have nothing to do."""
    begin(tmp_path, RUNS[2])

    def history(ago: timedelta, source: str = "ids.txt"):
        return read_runs(Place("s3://b", tmp_path, Bucket(note(RUNS[2], ago, source))), NOW, None)

    fresh, silent, dead = (history(timedelta(minutes=minutes)) for minutes in (9, 11, 24 * 60 + 1))
    assert (fresh.at_work[0].silent_since, fresh.stopped_early) == (None, False)
    assert (silent.at_work[0].may_be_dead, silent.stopped_early) == (True, True)
    assert silent.at_work[0].silent_since
    assert (dead.at_work, dead.past[0].source, dead.stopped_early) == ([], "ids.txt", True)
    idle = history(timedelta(hours=3), "nats://127.0.0.1:4222/invoices")
    assert (idle.at_work[0].may_be_dead, idle.stopped_early) == (False, False)
    assert read_runs(Place("s3://b", tmp_path, Bucket()), NOW, None).at_work[0].source is None


def test_a_long_run_is_shown_however_many_have_ended_since(tmp_path):
    """The last few runs are shown, and all that are at work; with a source, only those of that one, but all sources are
    known."""
    old = "20240101T000000Z-000001"
    begin(tmp_path, old)
    with announced(tmp_path, note(old, timedelta(days=300), "backfill.csv")):
        for number in range(12):
            finish(tmp_path, f"202501{number + 1:02}T000000Z-000001", source=f"{number % 2}.txt")
        history = read_runs(on_disk(tmp_path), NOW, None)
        assert (len(history.past), [run.run for run in history.at_work]) == (8, [old])
        one = read_runs(on_disk(tmp_path), NOW, "1.txt")
        assert (len(one.past), len(one.of_source), one.at_work) == (6, 6, [])
        assert one.sources == {"0.txt", "1.txt", "backfill.csv"}


def test_a_damaged_summary_is_not_taken_for_an_end_in_order(tmp_path):
    """It is shown with what is wrong, and counts as stopped early."""
    finish(tmp_path, RUNS[0])
    (tmp_path / "manifests" / f"{RUNS[0]}.json").write_bytes(b"{}")
    history = read_runs(on_disk(tmp_path), NOW, None)
    assert "damaged" in history.past[0].stopped_by
    assert history.stopped_early
