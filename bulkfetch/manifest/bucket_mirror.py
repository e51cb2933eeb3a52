"""The manifests of an archive in a bucket, and their copy in a local directory.

In the bucket a run is many objects (see `bucket_layout`). Locally it is one file, as in an archive on disk: the ledger,
the chain and everything else read that copy. The bucket is the truth; the copy can be deleted at any time.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from bulkfetch.durable import disk_errors, replace_file
from bulkfetch.errors import FatalError, InvoiceError, UsageError
from bulkfetch.interfaces import Objects
from bulkfetch.keys import MANIFESTS, STATE
from bulkfetch.manifest.bucket_layout import (
    ROWS,
    Layout,
    Part,
    in_order,
    missing_part,
    pack_key,
    segment_key,
    segments,
    segments_folder,
    summary_key,
)
from bulkfetch.manifest.bucket_reading import READERS, read_ahead, read_whole
from bulkfetch.manifest.chain import read_summary
from bulkfetch.manifest.row_file import whole_size
from bulkfetch.manifest.runs import list_runs
from bulkfetch.manifest.runs_at_work import RunNote, note_key
from bulkfetch.models import ObjectMeta
from bulkfetch.retrying import persistent
from bulkfetch.text import printable

T = TypeVar("T")

_FIRST = 16
"""How many objects are looked at to tell whose bucket it is."""

PACK_SEGMENTS = 1000
"""How many segments a pack holds at most: what one request lists."""

PACK_BYTES = 1 << 20
"""Segments that no pack holds yet are kept in memory. Once they have this many bytes they become a pack."""

OPENING = 10.0
"""Seconds for which a bucket may fail before a run begins: somebody may be waiting at a terminal."""

RUNNING = 120.0
"""The same in the middle of a run, which has more to lose."""


class Mirror:
    """Keeps `root`, the local copy, equal to what `objects` hold. Blocks; for one thread at a time.

    `damaged` are the keys of parts that `pull` found damaged or gone, and whose rows it had from elsewhere.
    """

    def __init__(self, objects: Objects, root: Path) -> None:
        self._objects = objects
        self._root = root
        self._run: str | None = None
        self._number = 0
        self.damaged = list[str]()
        self._loose: list[bytes] = []
        self._failure: str | None = None
        self._give_up = threading.Event()

    def stop_waiting(self) -> None:
        """See `interfaces.Manifest.stop_waiting`. May be called from any thread."""
        self._give_up.set()

    def raise_if_failed(self) -> None:
        """Raise the FatalError that keeps this run from going on, if there is one."""
        if self._failure is not None:
            raise FatalError(self._failure)

    def forget(self) -> None:
        """Delete the local copies, when one is found to differ from what was pulled."""
        with disk_errors(f"delete the local copy of the manifests in {self._root}"):
            for run in list_runs(self._root):
                for path in (run.manifest, run.summary):
                    if path is not None:
                        path.unlink()

    @property
    def name(self) -> str:
        """What a summary calls the manifest of the run."""
        return f"{self._written()}.rows-*.jsonl"

    def begin(self, run: str) -> None:
        """Put up the rows of `run` from now on. `pull` leaves the local file of this run alone."""
        self._run = run

    def announce(self, note: RunNote) -> None:
        """Put up the note of the run, if the bucket takes it: a bucket in trouble is told by the rows."""
        with suppress(InvoiceError, FatalError, OSError):
            self._objects.create(note_key(note.run), msgspec.json.encode(note))

    def pull(self) -> None:
        """Bring the copy up to date: only what is new is read.

        Raises:
            FatalError: the bucket cannot be read, or a segment in the middle of a run is missing.
        """
        objects, _ = self._insist(lambda: self._objects.level(f"{MANIFESTS}/"), "list the manifests")
        _, folders = self._insist(lambda: self._objects.level(f"{ROWS}/"), "list the manifests of runs at work")
        layout = Layout.of(objects, folders)
        layout.runs.discard(self._run or "")
        with disk_errors(f"write the local copy of the manifests in {self._root}"):
            for directory in (STATE, MANIFESTS):
                (self._root / directory).mkdir(parents=True, exist_ok=True)
            for run in list_runs(self._root):
                if run.id == self._run:
                    continue
                if run.manifest and run.id not in layout.runs:
                    run.manifest.unlink()
                if run.summary and run.id not in layout.summaries:
                    run.summary.unlink()
            # Closed here, also after an error: later the threads behind it would be waited for wherever that happens.
            with closing(self._all_parts(layout)) as found:
                self._pull_rows([(run, part) for run, parts in found for part in self._unread(run, parts)])
            self._pull_summaries(layout)

    def holds_foreign(self) -> bool:
        """Whether there are objects but not one manifest: somebody else put them there."""
        if any(run.manifest for run in list_runs(self._root)):
            return False
        own = (f"{MANIFESTS}/", f"{STATE}/")
        first = self._insist(lambda: list(islice(self._objects.list(""), _FIRST)), "list the bucket")
        return any(not meta.key.startswith(own) for meta in first)

    def append(self, lines: bytes) -> None:
        """Put `lines` up as the next segment of the run; durable on return.

        Raises:
            FatalError: the lines are not in the bucket. Nothing more of this run is put up either: later rows, or a
                summary, would claim that no object lacks its row.
        """
        if len(self._loose) >= PACK_SEGMENTS or sum(map(len, self._loose)) >= PACK_BYTES:
            self._put_pack()
        self._create(segment_key(self._written(), self._number + 1), lines)
        self._number += 1
        self._loose.append(lines)

    def finish(self) -> None:
        """Put up the summary of the run as it is in the local copy.

        Raises:
            FatalError: it is not in the bucket; then the run counts as one that died.
        """
        run = self._written()
        with disk_errors(f"read the summary of run {run}"):
            data = (self._root / MANIFESTS / f"{run}.json").read_bytes()
        if self._loose:
            self._put_pack()
        self._create(summary_key(run), data)

    def _put_pack(self) -> None:
        """Put up the segments that no pack holds as one pack."""
        first = self._number - len(self._loose) + 1
        self._create(pack_key(self._written(), first, self._number), b"".join(self._loose))
        self._loose.clear()

    def _written(self) -> str:
        assert self._run is not None  # noqa: S101 - `begin` comes first
        return self._run

    def _create(self, key: str, data: bytes) -> None:
        self.raise_if_failed()

        def put() -> None:
            try:
                self._objects.create(key, data)
            except FileExistsError:
                # An answer may have been lost: then the object is the one that was put before.
                if self._objects.read(key) != data:
                    raise FatalError(f"{key} is there already with other content: who else writes this run?") from None

        try:
            self._insist(put, f"write {key}")
        except FatalError as error:
            self._failure = str(error)
            raise

    def _all_parts(self, layout: Layout) -> Generator[tuple[str, Sequence[Part]], None, None]:
        """The runs, each with all its parts, in no order."""
        growing = layout.growing()
        for run in layout.runs - growing:
            yield run, layout.packs[run]
        with ThreadPoolExecutor(READERS, thread_name_prefix="manifest-lister") as listers:
            listed = listers.map(lambda run: (run, self._list_segments(run, layout.last_in_packs(run))), growing)
            for run, loose in listed:
                yield run, [*layout.packs.get(run, ()), *loose]

    def _list_segments(self, run: str, after: int) -> Sequence[Part]:
        behind = segment_key(run, after) if after else ""
        listing = lambda: segments(self._objects.list(segments_folder(run), after=behind))  # noqa: E731
        return self._insist(listing, f"list the manifest of run {run}")

    def _unread(self, run: str, found: Sequence[Part]) -> Sequence[Part]:
        """The last ones of the parts `found` of `run`, which the local copy does not hold; it ends where they begin."""
        try:
            parts = in_order(run, found)
        except FatalError:
            # A pack is gone; its segments may be there.
            held = {number for part in found for number in range(part.first, part.last + 1)}
            loose = [part for part in self._list_segments(run, 0) if part.first not in held]
            parts = in_order(run, [*found, *loose])
        path = self._root / MANIFESTS / f"{run}.jsonl"
        size = path.stat().st_size if path.exists() else 0
        have = whole_size(path) if size else 0
        end, known = 0, 0
        for part in parts:
            if end + part.size > have:
                break
            end, known = end + part.size, known + 1
        if known == len(parts) and (size == end or self._is_complete(run)):
            return []
        with path.open("r+b" if have else "wb") as file:
            file.seek(max(0, end - 1))
            if end and file.read(1) != b"\n":  # the size of a damaged pack is not that of its rows
                end, known = 0, 0
            file.truncate(end)
        return parts[known:]

    def _pull_rows(self, unread: Sequence[tuple[str, Part]]) -> None:
        for (run, _), data in read_ahead(lambda each: read_whole(*each, self._read, self.damaged.append), unread):
            with (self._root / MANIFESTS / f"{run}.jsonl").open("ab") as file:
                file.write(data)

    def _pull_summaries(self, layout: Layout) -> None:
        unread = [(run, meta) for run, meta in layout.summaries.items() if not self._has_summary(run, meta)]
        for (run, meta), data in read_ahead(lambda each: self._read(each[1].key), unread):
            path = self._root / MANIFESTS / f"{run}.json"
            if data is None or len(data) != meta.size:
                raise FatalError(f"{printable(meta.key)} has changed while it was read")
            replace_file(path, data, temporary=self._root / STATE / f"{path.name}.part")
            if run in layout.runs:  # else all its rows were taken away: what it stored is not known any more
                self._pull_end(run, path, layout.last_in_packs(run))

    def _pull_end(self, run: str, summary: Path, last: int) -> None:
        """Read the last rows of `run` from its segments if the pack that should hold them is gone."""
        rows, sealed = self._root / MANIFESTS / f"{run}.jsonl", sealed_rows(summary)
        if sealed is None or count_rows(rows) >= sealed:
            return
        self._pull_rows([(run, part) for part in self._list_segments(run, last)])
        if count_rows(rows) < sealed:
            raise missing_part(run, last + 1)

    def _is_complete(self, run: str) -> bool:
        """Whether the local copy holds all rows of a run that ended, whatever is left of them in the bucket."""
        summary = self._root / MANIFESTS / f"{run}.json"
        return summary.exists() and sealed_rows(summary) == count_rows(self._root / MANIFESTS / f"{run}.jsonl")

    def _has_summary(self, run: str, meta: ObjectMeta) -> bool:
        path = self._root / MANIFESTS / f"{run}.json"
        return path.exists() and path.stat().st_size == meta.size and sealed_rows(path) is not None

    def _read(self, key: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                return self._objects.read(key)
            except FileNotFoundError:
                return None

        return self._insist(read, f"read {key}")

    def _insist(self, call: Callable[[], T], doing: str) -> T:
        try:
            return persistent(call, RUNNING if self._run else OPENING, self._give_up)
        except (InvoiceError, FileNotFoundError) as error:
            raise FatalError(f"cannot {printable(doing)} in the bucket: {error}") from error


def sealed_rows(summary: Path) -> int | None:
    """How many rows the run of `summary` had; None if the file is not as its run wrote it: the next one seals the bytes
    that are here."""
    try:
        return read_summary(summary).manifest_rows
    except UsageError:
        return 0  # of a newer version, which is for others to say
    except FatalError:
        return None


def count_rows(manifest: Path) -> int:
    """The lines in a local copy."""
    if not manifest.exists():
        return 0
    with manifest.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
