"""One run's hold on an archive in a directory: the blocking half of `LocalManifest`, for one thread."""

import os
import socket
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Self

import msgspec

from bulkfetch.interfaces import Objects
from bulkfetch.manifest.durable import fatal_if_it_fails, make_directory
from bulkfetch.manifest.ledger import Ledger
from bulkfetch.manifest.lock import ArchiveLock, Holder
from bulkfetch.manifest.mirror import Mirror
from bulkfetch.manifest.runs import (
    MANIFESTS,
    STATE,
    check_run_id,
    list_runs,
    must_adopt,
    new_run_id,
    unfinished_runs,
    write_summary,
)
from bulkfetch.manifest.seen import Seen
from bulkfetch.manifest.segment import Segment, heal
from bulkfetch.models import Row, Summary, utc_iso


class Journal:
    """The lock, the run's own segment, the ledger and the IDs met, open together."""

    def __init__(
        self,
        root: Path,
        run: str,
        *,
        mirror: Mirror | None,
        adopting: bool,
        segment: Segment,
        ledger: Ledger,
        seen: Seen,
        held: ExitStack,
    ) -> None:
        self.run = run
        self.adopting = adopting
        self.ledger = ledger
        self.seen = seen
        self._root = root
        self._mirror = mirror
        self._segment = segment
        self._held = held
        self._indexing = True

    @classmethod
    def open(cls, root: Path, run: str | None, clock: Callable[[], datetime], objects: Objects | None) -> Self:
        """Take the archive, mend what a run that died left torn, and begin a run.

        With `objects` the archive is in a bucket, and `root` a local copy of its manifests, brought up to date first.

        Raises:
            ArchiveLocked: another run holds the archive.
            UsageError: `run` is no run ID, or a newer bulkfetch wrote the archive.
            FatalError: the archive is damaged or cannot be written.
        """
        if run is not None:
            check_run_id(run)
        state = root / STATE
        with ExitStack() as stack:
            with fatal_if_it_fails(f"create the archive {root}"):
                make_directory(state, 0o700)
                make_directory(root / MANIFESTS, 0o750)
            lock = stack.enter_context(closing(ArchiveLock.acquire(state / "lock")))
            mirror = Mirror(objects, root) if objects is not None else None
            if mirror is not None:
                mirror.pull()
            now = clock()
            run = run or new_run_id(now, after=max((run.id for run in list_runs(root)), default=None))
            lock.sign(Holder(pid=os.getpid(), host=socket.gethostname(), started_at=utc_iso(now), run=run))
            for died in unfinished_runs(root):
                if died.manifest:
                    heal(died.manifest, state / f"{died.manifest.name}.torn")
            adopting = must_adopt(root) or (mirror is not None and mirror.holds_foreign())
            ledger = stack.enter_context(closing(Ledger.open(root)))
            seen = stack.enter_context(closing(Seen(state / f"seen-{run}")))
            segment = stack.enter_context(closing(Segment(root / MANIFESTS / f"{run}.jsonl")))
            return cls(
                root,
                run,
                mirror=mirror,
                adopting=adopting,
                segment=segment,
                ledger=ledger,
                seen=seen,
                held=stack.pop_all(),
            )

    def check(self) -> None:
        """Raise the FatalError that keeps rows from being written, if there is one."""
        self._segment.check()

    def commit(self, lines: bytes, rows: Sequence[Row]) -> None:
        """Make `lines`, which are `rows` encoded, durable; then index them.

        Raises:
            FatalError: the lines are not recorded.
        """
        self._segment.check()
        # The bucket first: what is in the local copy alone would be news to every other machine.
        if self._mirror is not None:
            self._mirror.append(self.run, lines)
        self._segment.append(lines, len(rows))
        if self._indexing:
            try:
                self.ledger.index(self.run, rows, self._segment.size)
            except sqlite3.Error:
                # The rows are safe. The ledger may have no gap, so it rests here; the next run reads on from its end.
                self._indexing = False

    def finish(self, summary: Summary) -> Summary:
        """Close the segment and write the run's summary, its hashes filled in.

        Raises:
            FatalError: the manifest failed before, or the summary cannot be written.
        """
        self._segment.check()
        self._segment.close()
        written = write_summary(
            self._root,
            msgspec.structs.replace(
                summary,
                run=self.run,
                manifest=self._mirror.name(self.run) if self._mirror else self._segment.path.name,
                manifest_rows=self._segment.rows,
                manifest_sha256=self._segment.sha256(),
            ),
        )
        if self._mirror is not None:
            self._mirror.finish(self.run)
        return written

    def close(self) -> None:
        """Let the archive go."""
        self._held.close()
