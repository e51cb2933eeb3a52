"""The manifests of an archive in a bucket, and their copy in a local directory.

A bucket knows no append, so a run's rows go up as immutable numbered objects, `manifests/<run>/00001.jsonl` and so on,
and its summary last, as `manifests/<run>.json`. Locally each run is one file, as in an archive on disk: the ledger, the
chain and everything else read that copy. The bucket is the truth; the copy can be deleted at any time.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from bulkfetch.errors import FatalError, InvoiceError, UsageError
from bulkfetch.interfaces import Objects
from bulkfetch.manifest.durable import fatal_if_it_fails, replace_file
from bulkfetch.manifest.runs import MANIFESTS, RUN_ID, STATE, list_runs, read_summary
from bulkfetch.manifest.segment import whole_size
from bulkfetch.models import ObjectMeta
from bulkfetch.retrying import persistent
from bulkfetch.text import safe

T = TypeVar("T")

_SEGMENT = re.compile(rf"{MANIFESTS}/(?P<run>{RUN_ID.pattern})/(?P<number>[0-9]+)\.jsonl", re.ASCII)
_SUMMARY = re.compile(rf"{MANIFESTS}/(?P<run>{RUN_ID.pattern})\.json", re.ASCII)
_READERS = 16

OPENING = 10.0
"""Seconds for which a bucket may fail before a run begins: somebody may be waiting at a terminal."""

RUNNING = 120.0
"""The same in the middle of a run, which has more to lose."""


class Mirror:
    """Keeps `root`, the local copy, equal to what `objects` hold. Blocks; for one thread at a time."""

    def __init__(self, objects: Objects, root: Path) -> None:
        self._objects = objects
        self._root = root
        self._number = 0
        self._failure: str | None = None
        self._hurry = threading.Event()

    def hurry(self) -> None:
        """See `interfaces.Manifest.hurry`. May be called from any thread."""
        self._hurry.set()

    def check(self) -> None:
        """Raise the FatalError that keeps this run from going on, if there is one."""
        if self._failure is not None:
            raise FatalError(self._failure)

    def forget(self) -> None:
        """Delete the local copies: what is not as it was pulled is of no use."""
        with fatal_if_it_fails(f"delete the local copy of the manifests in {self._root}"):
            for run in list_runs(self._root):
                for path in (run.manifest, run.summary):
                    if path is not None:
                        path.unlink()

    def name(self, run: str) -> str:
        """What a summary calls the manifest of `run`."""
        return f"{run}/"

    def pull(self, *, but: str | None = None) -> None:
        """Bring the copy up to date: only what is new is read. The run `but` is being written here, and left alone.

        Raises:
            FatalError: the bucket cannot be read, or a segment in the middle of a run is missing.
        """
        segments: dict[str, dict[int, ObjectMeta]] = defaultdict(dict)
        summaries: dict[str, ObjectMeta] = {}
        for meta in self._insist(lambda: list(self._objects.list(f"{MANIFESTS}/")), "list the manifests"):
            if found := _SEGMENT.fullmatch(meta.key):
                segments[found["run"]][int(found["number"])] = meta
            elif found := _SUMMARY.fullmatch(meta.key):
                summaries[found["run"]] = meta
        with fatal_if_it_fails(f"write the local copy of the manifests in {self._root}"):
            for directory in (STATE, MANIFESTS):
                (self._root / directory).mkdir(parents=True, exist_ok=True)
            segments.pop(but or "", None)
            for run in list_runs(self._root):
                if run.id == but:
                    continue
                if run.manifest and run.id not in segments:
                    run.manifest.unlink()
                if run.summary and run.id not in summaries:
                    run.summary.unlink()
            for run_id, numbered in segments.items():
                if sorted(numbered) != list(range(1, len(numbered) + 1)):
                    raise FatalError(f"the manifest of run {safe(run_id)} is damaged: segments are missing")
                self._pull_rows(run_id, [numbered[number] for number in range(1, len(numbered) + 1)])
            for run_id, meta in summaries.items():
                self._pull_summary(run_id, meta)

    def holds_foreign(self) -> bool:
        """Whether there are objects but not one manifest: somebody else put them there."""
        if any(run.manifest for run in list_runs(self._root)):
            return False
        own = (f"{MANIFESTS}/", f"{STATE}/")
        first = self._insist(lambda: list(islice(self._objects.list(""), _READERS)), "list the bucket")
        return any(not meta.key.startswith(own) for meta in first)

    def append(self, run: str, lines: bytes) -> None:
        """Put `lines` up as the next segment of `run`; durable on return.

        Raises:
            FatalError: it could not be done, nor will anything more of this run: rows behind a gap, or a summary, would
                say that no object is without its row.
        """
        self._create(f"{MANIFESTS}/{run}/{self._number + 1:05}.jsonl", lines)
        self._number += 1

    def finish(self, run: str) -> None:
        """Put the summary of `run` up, as it is in the local copy.

        Raises:
            FatalError: it could not be done; then the run counts as one that died.
        """
        with fatal_if_it_fails(f"read the summary of run {run}"):
            data = (self._root / MANIFESTS / f"{run}.json").read_bytes()
        self._create(f"{MANIFESTS}/{run}.json", data)

    def _create(self, key: str, data: bytes) -> None:
        self.check()

        def put() -> None:
            try:
                self._objects.create(key, data)
            except FileExistsError:
                # An answer may have been lost: then the object is the one that was put before.
                if self._objects.read(key) != data:
                    raise FatalError(f"{key} is there already with other content: who else writes this run?") from None

        try:
            self._insist(put, f"write {key}", RUNNING)
        except FatalError as error:
            self._failure = str(error)
            raise

    def _pull_rows(self, run: str, segments: Sequence[ObjectMeta]) -> None:
        path = self._root / MANIFESTS / f"{run}.jsonl"
        size = path.stat().st_size if path.exists() else 0
        have = whole_size(path) if size else 0
        end, known = 0, 0
        for segment in segments:
            if end + segment.size > have:
                break
            end, known = end + segment.size, known + 1
        if size == end and known == len(segments):
            return
        with path.open("r+b" if have else "wb") as file:
            file.truncate(end)
            file.seek(end)
            for data in self._read_all(segments[known:]):
                file.write(data)

    def _read_all(self, segments: Sequence[ObjectMeta]) -> Iterator[bytes]:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="manifest-reader") as readers:
            for start in range(0, len(segments), 8 * _READERS):
                yield from readers.map(self._read, segments[start : start + 8 * _READERS])

    def _read(self, segment: ObjectMeta) -> bytes:
        data = self._insist(lambda: self._objects.read(segment.key), f"read {segment.key}")
        if len(data) != segment.size:
            raise FatalError(f"{safe(segment.key)} has changed while it was read")
        return data

    def _pull_summary(self, run: str, meta: ObjectMeta) -> None:
        path = self._root / MANIFESTS / f"{run}.json"
        if not path.exists() or path.stat().st_size != meta.size or not _is_whole(path):
            replace_file(path, self._read(meta), temporary=self._root / STATE / f"{path.name}.part")

    def _insist(self, call: Callable[[], T], doing: str, seconds: float = OPENING) -> T:
        try:
            return persistent(call, seconds, self._hurry)
        except (InvoiceError, FileNotFoundError) as error:
            raise FatalError(f"cannot {safe(doing)} in the bucket: {error}") from error


def _is_whole(summary: Path) -> bool:
    """Whether `summary` is as its run wrote it: the next one seals the bytes that are here."""
    try:
        read_summary(summary)
    except UsageError:
        return True  # of a newer version, which is for others to say
    except FatalError:
        return False
    return True
