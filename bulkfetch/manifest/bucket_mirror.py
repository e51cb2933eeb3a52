"""The manifests of an archive in a bucket, and their copy in a local directory.

In the bucket a run is many objects (see `bucket_layout`). Locally it is one file, as in an archive on disk: the ledger,
the chain and everything else read that copy. The bucket is the truth; the copy can be deleted at any time.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from bulkfetch.durable import disk_errors, replace_file
from bulkfetch.errors import FatalError, InvoiceError, UsageError
from bulkfetch.interfaces import Objects
from bulkfetch.keys import MANIFESTS, STATE
from bulkfetch.manifest.bucket_layout import (
    ROWS,
    Layout,
    Part,
    in_order,
    pack_key,
    segment_key,
    segments,
    segments_folder,
    summary_key,
)
from bulkfetch.manifest.chain import read_summary
from bulkfetch.manifest.row_file import whole_size
from bulkfetch.manifest.runs import list_runs
from bulkfetch.models import ObjectMeta
from bulkfetch.retrying import persistent
from bulkfetch.text import printable

T = TypeVar("T")

_READERS = 16

PACK_SEGMENTS = 1000
"""How many segments a pack holds at most: what one request lists."""

PACK_BYTES = 1 << 20
"""Segments that no pack holds yet are kept in memory. Once they have this many bytes they become a pack."""

OPENING = 10.0
"""Seconds for which a bucket may fail before a run begins: somebody may be waiting at a terminal."""

RUNNING = 120.0
"""The same in the middle of a run, which has more to lose."""


class Mirror:
    """Keeps `root`, the local copy, equal to what `objects` hold. Blocks; for one thread at a time."""

    def __init__(self, objects: Objects, root: Path) -> None:
        self._objects = objects
        self._root = root
        self._run: str | None = None
        self._number = 0
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
            for run_id, parts in self._all_parts(layout):
                self._pull_rows(run_id, in_order(run_id, parts))
            for run_id, meta in layout.summaries.items():
                self._pull_summary(run_id, meta)

    def holds_foreign(self) -> bool:
        """Whether there are objects but not one manifest: somebody else put them there."""
        if any(run.manifest for run in list_runs(self._root)):
            return False
        own = (f"{MANIFESTS}/", f"{STATE}/")
        first = self._insist(lambda: list(islice(self._objects.list(""), _READERS)), "list the bucket")
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

    def _all_parts(self, layout: Layout) -> Iterator[tuple[str, Sequence[Part]]]:
        """The runs, each with all its parts, in no order."""
        growing = layout.growing()
        for run in layout.runs - growing:
            yield run, layout.packs[run]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="manifest-lister") as listers:
            listed = listers.map(lambda run: (run, self._list_segments(run, layout.last_in_packs(run))), growing)
            for run, loose in listed:
                yield run, [*layout.packs.get(run, ()), *loose]

    def _list_segments(self, run: str, after: int) -> Sequence[Part]:
        behind = segment_key(run, after) if after else ""
        listing = lambda: segments(self._objects.list(segments_folder(run), after=behind))  # noqa: E731
        return self._insist(listing, f"list the manifest of run {run}")

    def _pull_rows(self, run: str, parts: Sequence[Part]) -> None:
        path = self._root / MANIFESTS / f"{run}.jsonl"
        size = path.stat().st_size if path.exists() else 0
        have = whole_size(path) if size else 0
        end, known = 0, 0
        for part in parts:
            if end + part.size > have:
                break
            end, known = end + part.size, known + 1
        if size == end and known == len(parts):
            return
        with path.open("r+b" if have else "wb") as file:
            file.truncate(end)
            file.seek(end)
            for data in self._read_all(parts[known:]):
                file.write(data)

    def _read_all(self, parts: Sequence[Part]) -> Iterator[bytes]:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="manifest-reader") as readers:
            for start in range(0, len(parts), _READERS):
                yield from readers.map(self._read, parts[start : start + _READERS])

    def _read(self, part: Part | ObjectMeta) -> bytes:
        data = self._insist(lambda: self._objects.read(part.key), f"read {part.key}")
        if len(data) != part.size:
            raise FatalError(f"{printable(part.key)} has changed while it was read")
        return data

    def _pull_summary(self, run: str, meta: ObjectMeta) -> None:
        path = self._root / MANIFESTS / f"{run}.json"
        if not path.exists() or path.stat().st_size != meta.size or not _is_whole(path):
            replace_file(path, self._read(meta), temporary=self._root / STATE / f"{path.name}.part")

    def _insist(self, call: Callable[[], T], doing: str) -> T:
        try:
            return persistent(call, RUNNING if self._run else OPENING, self._give_up)
        except (InvoiceError, FileNotFoundError) as error:
            raise FatalError(f"cannot {printable(doing)} in the bucket: {error}") from error


def _is_whole(summary: Path) -> bool:
    """Whether `summary` is as its run wrote it: the next one seals the bytes that are here."""
    try:
        read_summary(summary)
    except UsageError:
        return True  # of a newer version, which is for others to say
    except FatalError:
        return False
    return True
