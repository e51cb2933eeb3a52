"""One run's hold on an archive in a directory: the blocking half of `LocalManifest`, for one thread."""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Self

from bulkfetch.durable import disk_errors, make_directory
from bulkfetch.errors import DamagedManifest, FatalError, UsageError
from bulkfetch.interfaces import Objects
from bulkfetch.keys import MANIFESTS, STATE
from bulkfetch.manifest.bucket_mirror import Mirror
from bulkfetch.manifest.chain import read_summary, write_summary
from bulkfetch.manifest.duplicates import Seen
from bulkfetch.manifest.ledger import Ledger
from bulkfetch.manifest.lock import ArchiveLock, Holder
from bulkfetch.manifest.queue_total import count_accounted
from bulkfetch.manifest.row_file import Segment, heal
from bulkfetch.manifest.runs import (
    check_run_id,
    list_runs,
    new_run_id,
    unfinished_runs,
)
from bulkfetch.models import Row, RunResult, Summary, utc_iso


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
        began: str,
    ) -> None:
        self.run = run
        self.adopting = adopting
        self.ledger = ledger
        self.seen = seen
        self._root = root
        self._mirror = mirror
        self._segment = segment
        self._held = held
        self._began = began
        self._indexing = True
        self._refreshed = 0.0

    @classmethod
    def open(
        cls,
        root: Path,
        run: str | None,
        clock: Callable[[], datetime],
        objects: Objects | None,
        *,
        shared: bool = False,
    ) -> Self:
        """Take the archive, mend what a run that died left torn, and begin a run.

        With `objects` the archive is in a bucket, and `root` a local copy of its manifests, brought up to date first.
        With `shared` the archive itself is shared with the other workers of a queue; a local copy never is.

        Raises:
            ArchiveLocked: another run holds the archive.
            UsageError: `run` is no run ID, or a newer bulkfetch wrote the archive.
            FatalError: the archive is damaged or cannot be written.
        """
        if run is not None:
            check_run_id(run)
        state = root / STATE
        with ExitStack() as stack:
            with disk_errors(f"create the archive {root}"):
                make_directory(state, 0o700)
                make_directory(root / MANIFESTS, 0o750)
            lock = ArchiveLock.acquire(state / "lock", shared=shared and objects is None)
            stack.enter_context(closing(lock))
            mirror = Mirror(objects, root) if objects is not None else None
            if mirror is not None:
                mirror.pull()
            now = clock()
            run = run or new_run_id(now, after=max((run.id for run in list_runs(root)), default=None))
            lock.sign(Holder(pid=os.getpid(), host=socket.gethostname(), started_at=utc_iso(now), run=run))
            if lock.alone:
                _heal_all(root)
            # Whoever shares an archive looks at each object that another worker may have left, and asks for no more.
            adopting = not shared and (must_adopt(root) or (mirror is not None and mirror.holds_foreign()))
            if shared and lock.alone and mirror is None:
                lock.share()
            ledger = stack.enter_context(closing(_open_ledger(root, mirror, shared=shared)))
            seen = stack.enter_context(closing(Seen(state / f"seen-{run}")))
            segment = stack.enter_context(closing(Segment(root / MANIFESTS / f"{run}.jsonl")))
            if mirror is not None:
                mirror.begin(run)
            return cls(
                root,
                run,
                mirror=mirror,
                adopting=adopting,
                segment=segment,
                ledger=ledger,
                seen=seen,
                held=stack.pop_all(),
                began=utc_iso(now),
            )

    def hurry(self) -> None:
        """See `interfaces.Manifest.hurry`. May be called from any thread."""
        if self._mirror is not None:
            self._mirror.hurry()

    def check(self) -> None:
        """Raise the FatalError that keeps rows from being written, if there is one."""
        self._segment.check()
        if self._mirror is not None:
            self._mirror.check()

    def commit(self, lines: bytes, rows: Sequence[Row]) -> None:
        """Make `lines`, which are `rows` encoded, durable; then index them.

        Raises:
            FatalError: the lines are not recorded.
        """
        self.check()
        # The bucket first: what is in the local copy alone would be news to every other machine.
        if self._mirror is not None:
            self._mirror.append(lines)
        self._segment.append(lines, len(rows))
        if self._indexing:
            try:
                self.ledger.index(self.run, rows, self._segment.size)
            except sqlite3.Error:
                # The rows are safe. The ledger may have no gap, so it rests here; the next run reads on from its end.
                self._indexing = False

    def refresh(self, asked: float) -> None:
        """Take in what others have recorded up to `asked` (monotonic seconds).

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        if self._refreshed > asked:
            return
        began = time.monotonic()
        if self._mirror is not None:
            self._mirror.pull()
        self.ledger.refresh()
        # It has read this run's manifest, too.
        self._indexing = True
        self._refreshed = began

    def accounted(self, source: str, rows: int) -> int:
        """How many invoices the workers of the queue `source` have accounted for since it was last drained; of this run
        there are `rows` rows.

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        if self._mirror is not None:
            self._mirror.pull()
        return count_accounted(self._root, self.run, source, began=self._began, idle=not rows)

    def finish(self, result: RunResult) -> Summary:
        """Close the segment and write the run's summary: `result`, sealed.

        Raises:
            FatalError: the manifest failed before, or the summary cannot be written.
        """
        self.check()
        self._segment.close()
        written = write_summary(
            self._root,
            self.run,
            result,
            manifest=self._mirror.name if self._mirror else self._segment.path.name,
            rows=self._segment.rows,
            sha256=self._segment.sha256(),
        )
        if self._mirror is not None:
            self._mirror.finish()
        return written

    def close(self) -> None:
        """Let the archive go."""
        self._held.close()


def _heal_all(root: Path) -> None:
    for died in unfinished_runs(root):
        if died.manifest:
            heal(died.manifest, root / STATE / f"{died.manifest.name}.torn")


def _open_ledger(root: Path, mirror: Mirror | None, *, shared: bool) -> Ledger:
    if shared and mirror is None:
        return Ledger.beside_others(root)
    try:
        return Ledger.open(root)
    except DamagedManifest:
        if mirror is None:
            raise
    # A power failure can leave the copy with its size but without its bytes; the bucket has the truth.
    mirror.forget()
    mirror.pull()
    return Ledger.open(root)


def must_adopt(root: Path) -> bool:
    """Whether there may be objects without a row in `root`: left by a run that died after the last complete one, or put
    there by somebody else before the first."""
    runs = list_runs(root)
    if not any(run.manifest for run in runs):
        with disk_errors(f"list {root}"):
            return root.is_dir() and any(path.name not in (STATE, MANIFESTS) for path in root.iterdir())
    for run in reversed(runs):
        if run.summary is None:
            return True
        try:
            summary = read_summary(run.summary)
            # The worker of a queue looks for what it is given only, and others may be at work when it ends.
            if summary.complete and "://" not in summary.source:
                return False
        except UsageError:
            raise
        except FatalError:  # a damaged summary does not say that its run ended
            return True
    return False
