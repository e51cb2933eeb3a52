"""What the workers of one queue have done together, from the archive's manifests."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bulkfetch.errors import FatalError
from bulkfetch.keys import STATE
from bulkfetch.manifest.chain import read_summary
from bulkfetch.manifest.duplicates import SeenIds
from bulkfetch.manifest.row_file import whole_size
from bulkfetch.manifest.rows import read_rows
from bulkfetch.manifest.runs import Run, list_runs, started_at


def distinct_since_drain(root: Path, own: str, source: str, *, began: str, idle: bool) -> int:
    """How many different invoices the workers of the queue `source` have written rows for since it was last drained.

    `own` is the run that asks, `began` (UTC ISO 8601) the moment it started. An `idle` run wrote no row: it found the
    queue drained already, so what counts is the time up to that drain. A run that died has no summary to name its
    source; its rows are counted.

    Raises:
        FatalError: a manifest is damaged, or cannot be read.
    """
    counted = 0
    with closing(SeenIds(root / STATE / f"accounted-{own}")) as seen:
        for run, after in _period(root, own, source, began=began, idle=idle):
            if run.manifest is None:
                continue
            end = run.manifest.stat().st_size if run.summary else whole_size(run.manifest)
            for rows, _ in read_rows(run.manifest, 0, end):
                # A queue has no lines: with one, a row is that of a file's run, at work beside the workers.
                ids = [(row.invoice_id, None) for row in rows if row.finished_at > after and row.line is None]
                counted += len(ids) - len(seen.find_repeats(ids))
    return counted


def _period(root: Path, own: str, source: str, *, began: str, idle: bool) -> Sequence[tuple[Run, str]]:
    """The runs whose rows count, each with the moment (UTC ISO 8601) after which its rows do; "" counts all of them.

    Going back in time from `own`, all runs of `source` count until one is found that saw the queue drained and ended
    before every counted run began. A run that was at work at the moment of that drain counts with its later rows only.
    """
    since, drained = began, ""
    period = []
    for run in sorted(list_runs(root), key=lambda run: run.id, reverse=True):
        if run.id == own:
            period.append((run, ""))
            continue
        if run.summary is None:
            period.append((run, drained))
            since = since if drained else min(since, _began(run))
            continue
        try:
            summary = read_summary(run.summary)
        except FatalError:
            continue  # damaged: `verify` tells of it
        if summary.source != source or not summary.counts.read:
            continue
        if drained:
            if summary.finished_at > drained:
                period.append((run, drained))
            continue
        if summary.finished and summary.finished_at < since and not idle:
            drained = summary.finished_at
            continue
        idle = False
        period.append((run, ""))
        since = min(since, summary.started_at)
    return period


def _began(run: Run) -> str:
    """When `run`, which has no summary, began. Its first rows tell more exactly than its ID, which may name a slightly
    later moment: the IDs of runs that begin together are moved apart so that they sort.
    """
    named = started_at(run.id)
    if run.manifest is None:
        return named
    for rows, _ in read_rows(run.manifest, 0, whole_size(run.manifest)):
        return min(named, *(row.started_at for row in rows))
    return named
