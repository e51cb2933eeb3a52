"""The runs of an archive, the newest first: those that are over, and those that are at work."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from bulkfetch.app.look import Place
from bulkfetch.errors import ExitCode, FatalError, UsageError
from bulkfetch.manifest import list_runs, read_summary
from bulkfetch.manifest.bucket_mirror import count_rows
from bulkfetch.manifest.runs import Run, started_at
from bulkfetch.manifest.runs_at_work import RunNote, decode_note, last_row_at, note_key, read_note
from bulkfetch.models import RETRY_SOURCE, RUN, Counts
from bulkfetch.queues import is_queue

SHOWN_RUNS = 8

SILENT = timedelta(minutes=10)
"""A run at work without a row for so long is called silent."""

GIVEN_UP = timedelta(days=1)
"""In a bucket nothing tells a silent run from a dead one. After so long it counts as dead."""

_NOTED = timedelta(minutes=1)
"""By then a run on a disk has left its note, or is dead."""

_FINISHED = (ExitCode.COMPLETE, ExitCode.FAILED, ExitCode.FAILED_RETRYABLE)


class RunAtWork(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has no summary yet, and is not known to be dead. Times are UTC ISO 8601.

    `source`, `estimate` (rows), `host` and `pid` are None where it left no word of them; `rows` are durable.
    `silent_since` is when it last gave a sign, if that is more than ten minutes ago. `may_be_dead` says that nothing
    speaks against its having died since: in a bucket, and not waiting for a queue.
    """

    run: str
    source: str | None
    estimate: int | None
    host: str | None
    pid: int | None
    started_at: str
    rows: int
    last_row_at: str | None
    silent_since: str | None
    may_be_dead: bool = False


class PastRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is over. One that died has no summary: then only `run`, `started_at` and perhaps `source` are known.
    `source` is None as well where it is not known. Times are UTC ISO 8601, `seconds` is the run's length.
    """

    run: str
    source: str | None
    started_at: str
    finished_at: str | None = None
    seconds: float | None = None
    exit_code: int | None = None
    finished: bool = False
    complete: bool = False
    stopped_by: str | None = None
    counts: Counts | None = None

    @property
    def stopped_early(self) -> bool:
        """Whether it did not get to its source's end in order."""
        return self.exit_code not in _FINISHED

    @property
    def falls_short(self) -> bool:
        """Whether its list was not the one that was wanted: it had another number of rows, or none. Of a queue's
        invoices the rows tell."""
        return self.exit_code in (ExitCode.FAILED, ExitCode.FAILED_RETRYABLE) and bool(
            self.stopped_by and self.source and not is_queue(self.source)
        )


@dataclass(slots=True)
class RunHistory:
    """What is known of an archive's runs, each list with the newest first. `past` are the last few.

    With a source asked for, only its runs are here: `of_source` are all their IDs, and `sources` the names of all
    sources that the archive's runs have read.
    """

    past: list[PastRun] = field(default_factory=list)
    at_work: list[RunAtWork] = field(default_factory=list)
    of_source: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    @property
    def stopped_early(self) -> bool:
        """Whether the newest run did not end in order, or the one before the newest retries: these do not go on with
        what it left unread. A run at work does not count, unless it may be dead."""
        newest = self.past[0] if self.past else None
        doubtful = next((run for run in self.at_work if run.may_be_dead), None)
        if doubtful is not None and (newest is None or doubtful.run > newest.run):
            return True
        before = next((run for run in self.past if run.source != RETRY_SOURCE), None)
        return any(run is not None and run.stopped_early for run in (newest, before))


def read_runs(place: Place, now: datetime, source: str | None) -> RunHistory:
    """The runs of the archive in `place`, as they are at `now`; only those of `source`, if one is given. Blocks.

    Raises:
        OSError, FatalError: a manifest or summary cannot be read.
        UsageError: a newer bulkfetch wrote the archive.
    """
    history = RunHistory()
    for run in reversed(list_runs(place.root)):
        if run.summary is not None and source is None and len(history.past) >= SHOWN_RUNS:
            continue
        found = _past(run) if run.summary else _open(place, run, now)
        if found is None:
            continue
        history.sources |= {found.source} if found.source else set()
        if source is not None and found.source != source:
            continue
        history.of_source.add(found.run)
        if isinstance(found, RunAtWork):
            history.at_work.append(found)
        elif len(history.past) < SHOWN_RUNS:
            history.past.append(found)
    return history


def _past(run: Run) -> PastRun | None:
    """What the summary of `run` says; None if no run wrote it."""
    assert run.summary is not None  # noqa: S101 - the caller chose it so
    try:
        summary = read_summary(run.summary)
    except UsageError:
        raise
    except FatalError as error:
        return PastRun(run=run.id, source=None, started_at=started_at(run.id), stopped_by=str(error))
    if summary.kind != RUN:
        return None
    return PastRun(
        run=run.id,
        source=summary.source,
        started_at=summary.started_at,
        finished_at=summary.finished_at,
        seconds=summary.seconds,
        exit_code=summary.exit_code,
        finished=summary.finished,
        complete=summary.complete,
        stopped_by=summary.stopped_by,
        counts=summary.counts,
    )


def _open(place: Place, run: Run, now: datetime) -> PastRun | RunAtWork:
    """A run without a summary: at work, or dead."""
    if place.objects is None:
        note, alive = read_note(place.root, run.id)
        began = note.started_at if note else started_at(run.id)
        alive = alive or (note is None and now - datetime.fromisoformat(began) < _NOTED)
        last = last_row_at(run.manifest) if alive else None
    else:
        note = _note_in_bucket(place, run.id)
        began = note.started_at if note else started_at(run.id)
        last = last_row_at(run.manifest)
        alive = now - datetime.fromisoformat(last or began) < GIVEN_UP
    if not alive:
        return PastRun(run=run.id, source=note.source if note else None, started_at=began)
    sign = last or began
    silent = now - datetime.fromisoformat(sign) > SILENT
    source = note.source if note else None
    return RunAtWork(
        run=run.id,
        source=source,
        estimate=note.estimate if note else None,
        host=note.host if note else None,
        pid=note.pid if note else None,
        started_at=began,
        rows=count_rows(run.manifest) if run.manifest else 0,
        last_row_at=last,
        silent_since=sign if silent else None,
        may_be_dead=silent and place.objects is not None and not (source and is_queue(source)),
    )


def _note_in_bucket(place: Place, run: str) -> RunNote | None:
    data = place.read(note_key(run))
    return None if data is None else decode_note(data)
