"""A manifest that no run writes: a person's word on some invoices, recorded beside whatever runs are at work."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from bulkfetch.durable import disk_errors, sync_directory
from bulkfetch.keys import MANIFESTS
from bulkfetch.manifest.bucket_mirror import Mirror
from bulkfetch.manifest.chain import write_summary
from bulkfetch.manifest.row_file import RowFile
from bulkfetch.manifest.rows import encode_rows
from bulkfetch.manifest.runs import list_runs, new_run_id
from bulkfetch.models import Row, RunResult, Summary


def write_side_manifest(
    root: Path,
    now: datetime,
    groups: Callable[[str], Iterable[Sequence[Row]]],
    result: Callable[[int], RunResult],
    mirror: Mirror | None,
) -> Summary:
    """Record rows in a manifest of their own, sealed by a summary. Blocks.

    The archive's lock is not asked for: nobody else touches this manifest, and on a disk it is there whole or not at
    all. With `mirror` the archive is in a bucket, and `root`, the local copy, was brought up to date just now.

    Args:
        groups: for the manifest's ID, its rows, in groups that become durable together.
        result: for the number of rows, what the summary says.

    Raises:
        FatalError: it is not recorded whole. To record it again is harmless.
    """
    run = new_run_id(now, after=max((run.id for run in list_runs(root)), default=None))
    final = root / MANIFESTS / f"{run}.jsonl"
    part = final.with_name(f".{final.name}.part")
    if mirror is not None:
        mirror.begin(run)
    with closing(RowFile(part)) as rows:
        try:
            for group in groups(run):
                lines = encode_rows(group)
                if mirror is not None:
                    mirror.append(lines)
                rows.append(lines, len(group))
            with disk_errors(f"write the manifest {final}"):
                # A name that is free: the ID is new.
                os.link(part, final)
                sync_directory(final.parent)
        finally:
            with disk_errors(f"remove {part}"):
                part.unlink()
    manifest = final.name if mirror is None else mirror.name
    summary = write_summary(root, run, result(rows.rows), manifest=manifest, rows=rows.rows, sha256=rows.sha256())
    if mirror is not None:
        mirror.finish()
    return summary
