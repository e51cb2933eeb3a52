"""One run's hold on an archive: the blocking half of `ManifestWriter` and `RunHistory`, for one thread."""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Self

from msgspec import UNSET

from bulkfetch.durable import disk_errors, make_directory
from bulkfetch.errors import DamagedManifest, FatalError, UsageError
from bulkfetch.interfaces import Objects
from bulkfetch.keys import MANIFESTS, STATE
from bulkfetch.manifest.bucket_mirror import Mirror
from bulkfetch.manifest.chain import read_summary, write_summary
from bulkfetch.manifest.doubt_file import DoubtFile
from bulkfetch.manifest.duplicates import SeenIds
from bulkfetch.manifest.ledger import LedgerIndex
from bulkfetch.manifest.lock import ArchiveLock, Holder
from bulkfetch.manifest.queue_total import distinct_since_drain
from bulkfetch.manifest.row_file import RowFile, heal
from bulkfetch.manifest.rows import read_rows
from bulkfetch.manifest.runs import (
    check_run_id,
    list_runs,
    new_run_id,
    unfinished_runs,
)
from bulkfetch.models import Row, RunResult, Summary, utc_iso


class OpenRun:
    """The archive's lock, the run's own row file, the ledger and the list of IDs seen, open together.

    `adopting` says that there may be objects without a row, `alone` that no other run can record anything at the same
    time; `doubted` are the invoices that earlier runs left in doubt. Mutable are `_indexing`, whether the ledger still
    takes in the rows of this run, and `_refreshed`, since when (monotonic seconds) the ledger knows the rows of others.
    """

    def __init__(
        self,
        root: Path,
        run: str,
        *,
        shared: bool,
        mirror: Mirror | None,
        adopting: bool,
        alone: bool,
        row_file: RowFile,
        ledger: LedgerIndex,
        seen: SeenIds,
        held: ExitStack,
        began: str,
        doubts: DoubtFile,
        doubted: set[str],
    ) -> None:
        self.run = run
        self.rows = row_file.path
        self.adopting = adopting
        self.alone = alone
        self.doubts = doubts
        self.doubted = doubted
        self.ledger = ledger
        self.seen = seen
        self._root = root
        self._shared = shared
        self._mirror = mirror
        self._row_file = row_file
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
        """Lock the archive, mend the manifests that dead runs left torn, and begin a run.

        With `objects` the archive is in a bucket, and `root` holds a local copy of its manifests, which is brought up
        to date first. With `shared` the workers of a queue use the archive together; a local copy always belongs to
        one run alone.

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
            alone = lock.alone
            if alone:
                _heal_all(root)
            # The workers of a queue look for each invoice's object anyway: another worker may have just stored it.
            adopting = not shared and (must_adopt(root) or (mirror is not None and mirror.holds_foreign()))
            if shared and lock.alone and mirror is None:
                lock.share()
            ledger = stack.enter_context(closing(_open_ledger(root, mirror, shared=shared)))
            seen = stack.enter_context(closing(SeenIds(state / f"seen-{run}")))
            row_file = stack.enter_context(closing(RowFile(root / MANIFESTS / f"{run}.jsonl")))
            if mirror is not None:
                mirror.begin(run)
            doubts = DoubtFile(state, run)
            doubted = doubts.take_over() if alone else set[str]()
            return cls(
                root,
                run,
                shared=shared,
                mirror=mirror,
                adopting=adopting,
                alone=not shared and mirror is None,
                row_file=row_file,
                ledger=ledger,
                seen=seen,
                held=stack.pop_all(),
                began=utc_iso(now),
                doubts=doubts,
                doubted=doubted,
            )

    def stop_waiting(self) -> None:
        """See `interfaces.Manifest.stop_waiting`. May be called from any thread."""
        if self._mirror is not None:
            self._mirror.stop_waiting()

    def raise_if_failed(self) -> None:
        """Raise the FatalError that keeps rows from being written, if there is one."""
        self._row_file.raise_if_failed()
        if self._mirror is not None:
            self._mirror.raise_if_failed()

    def commit(self, lines: bytes, rows: Sequence[Row]) -> None:
        """Make `lines`, which are `rows` encoded, durable; then index them.

        Raises:
            FatalError: the lines are not recorded.
        """
        self.raise_if_failed()
        # The bucket first: other machines cannot see a row that is in the local copy alone.
        if self._mirror is not None:
            self._mirror.append(lines)
        start = self._row_file.size
        self._row_file.append(lines, len(rows))
        if self._indexing:
            try:
                self.ledger.index(self.run, rows, lines, start)
            except sqlite3.Error:
                # The rows are safe in the manifest. The ledger must have no gap, so it takes in no later row either,
                # until it reads the manifests again.
                self._indexing = False

    def find(self, ids: Collection[str]) -> Sequence[tuple[int, Row]]:
        """See `interfaces.Manifest.find`. Reads all rows of this run."""
        found: dict[int, Row] = {}
        position = 0
        with disk_errors(f"read the manifest {self._row_file.path}"):
            for rows, _ in read_rows(self._row_file.path, 0, self._row_file.size):
                for at, row in enumerate(rows, position):
                    if row.invoice_id in ids:
                        found[at if row.corrects is UNSET else row.corrects] = row
                position += len(rows)
        return sorted(found.items())

    def refresh(self, asked: float) -> None:
        """Bring the ledger up to date with what others had recorded at `asked` (monotonic seconds).

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        if self._refreshed > asked:
            return
        began = time.monotonic()
        if self._mirror is not None:
            self._mirror.pull()
        self.ledger.refresh()
        # The ledger has read this run's manifest, too, so it has no gap any more.
        self._indexing = True
        self._refreshed = began

    def distinct_since_drain(self, source: str, rows: int) -> int:
        """How many different invoices the workers of the queue `source` have written rows for since it was last
        drained; this run has `rows` rows.

        Raises:
            FatalError: a manifest is damaged, or cannot be read.
        """
        if self._mirror is not None:
            self._mirror.pull()
        return distinct_since_drain(self._root, self.run, source, began=self._began, idle=not rows)

    def finish(self, result: RunResult) -> Summary:
        """Close the row file and write the run's summary: `result`, sealed.

        Raises:
            FatalError: the manifest failed before, or the summary cannot be written.
        """
        self.raise_if_failed()
        self._row_file.close()
        written = write_summary(
            self._root,
            self.run,
            result,
            manifest=self._mirror.name if self._mirror else self._row_file.path.name,
            rows=self._row_file.rows,
            shared=self._shared,
            sha256=self._row_file.sha256(),
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


def _open_ledger(root: Path, mirror: Mirror | None, *, shared: bool) -> LedgerIndex:
    if shared and mirror is None:
        return LedgerIndex.beside_others(root)
    try:
        return LedgerIndex.open(root)
    except DamagedManifest:
        if mirror is None:
            raise
    # A power failure can leave a local file with its size but without its bytes. The bucket has the truth.
    mirror.forget()
    mirror.pull()
    return LedgerIndex.open(root)


def must_adopt(root: Path) -> bool:
    """Whether there may be objects without a row in `root`.

    A run that died may have left them, if no finished run came after it. Where there was no run yet, somebody else may
    have put them there.
    """
    runs = list_runs(root)
    if not any(run.manifest for run in runs):
        with disk_errors(f"list {root}"):
            return root.is_dir() and any(path.name not in (STATE, MANIFESTS) for path in root.iterdir())
    for run in reversed(runs):
        if run.summary is None:
            return True
        try:
            summary = read_summary(run.summary)
            # A run beside others looks only for the invoices it is given, and the others may still be busy when it
            # ends: its summary does not say that no object lacks its row.
            if summary.finished and not summary.shared:
                return False
        except UsageError:
            raise
        except FatalError:  # a damaged summary does not say that its run ended
            return True
    return False
