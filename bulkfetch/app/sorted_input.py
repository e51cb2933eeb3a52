"""An input's rows, sorted as a run would sort them, where none is at work: shared by `plan` and `queue push`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

from anyio import TemporaryDirectory, to_thread

from bulkfetch.app.open_archive import is_bucket, readable_manifests
from bulkfetch.app.planned_names import PlannedNames
from bulkfetch.app.shortfall import shortfall_of
from bulkfetch.config import Destination, SourceConfig
from bulkfetch.interfaces import Source
from bulkfetch.keys import KeyTemplate
from bulkfetch.manifest.duplicates import SeenIds
from bulkfetch.manifest.history import SnapshotHistory
from bulkfetch.manifest.open_run import must_adopt
from bulkfetch.pipeline.triage import Looks, Sorted, Triage
from bulkfetch.stores.local.heads import LocalHeads
from bulkfetch.stores.local.tree import is_case_blind

SHOWN_PROBLEMS = 10

_NO_ARCHIVE = "no-archive"


@dataclass(slots=True, kw_only=True)
class InputCounts:
    """What an input's rows are, in numbers.

    `problems` are line and problem of the first few rejected rows. `manifests_only` says that `already_stored` is the
    word of the manifests: nobody looked whether the objects are still there. `not_rows` are lines that are no rows, by
    kind, and `shortfall` says in words that the input is not the one that is wanted.
    """

    read: int = 0
    already_stored: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    problems: list[tuple[int | None, str]] = field(default_factory=list)
    manifests_only: bool = False
    not_rows: Mapping[str, int] = field(default_factory=dict)
    shortfall: str | None = None

    def end(self, source: Source, wanted: SourceConfig) -> None:
        """Take in what `source` says now that it was read to its end."""
        self.not_rows = dict(source.not_rows)
        self.shortfall = shortfall_of(wanted, self.read)

    def add(self, rows: Sorted) -> None:
        """Count `rows`."""
        rejected = len(rows.malformed) + len(rows.unusable)
        self.already_stored += len(rows.stored)
        self.accepted += len(rows.accepted)
        self.duplicates += len(rows.duplicates)
        self.rejected += rejected
        skipped = len(rows.stored) + len(rows.accepted) + len(rows.duplicates)
        self.read += rejected + skipped + len(rows.to_fetch)
        if rejected and len(self.problems) < SHOWN_PROBLEMS:
            problems = [(row.line, row.message) for row in rows.malformed]
            problems += [(delivery.line, str(error)) for delivery, error in rows.unusable]
            problems.sort(key=lambda problem: problem[0] or 0)
            self.problems += problems[: SHOWN_PROBLEMS - len(self.problems)]


@asynccontextmanager
async def open_triage(
    archive: Destination, environ: Mapping[str, str], *, date_format: str
) -> AsyncIterator[tuple[Triage, PlannedNames]]:
    """The triage of a run into `archive`, and the names that it would give, changing nothing there. An `archive`
    without a URL holds nothing.

    A directory is looked at as a run does. Of a bucket, whose credentials `environ` holds, only the manifests are read,
    as by a run. `date_format` is how the input writes dates.

    Raises:
        UsageError: `archive` is no place for an archive, or its key template cannot be used.
        FatalError: a manifest is damaged, or the bucket cannot be read.
    """
    keys = KeyTemplate.parse(archive.key, date_format)
    async with TemporaryDirectory(prefix="bulkfetch-") as name:
        scratch = Path(name)
        root = await readable_manifests(archive, scratch, environ) if archive.url else scratch / _NO_ARCHIVE
        looks, spelt = None, None
        async with SnapshotHistory.open(root, seen=scratch / "seen") as history:
            if archive.url and not is_bucket(archive.url):
                blind = await to_thread.run_sync(is_case_blind, root)
                heads = LocalHeads(root, blind=blind)
                spelt = heads.spelt if blind else None
                adopting = await to_thread.run_sync(must_adopt, root)
                looks = Looks(head=heads.head, stored=True, unrecorded=adopting, whole=heads.whole)
            triage = Triage(history=history, keys=keys, repeats=False, looks=looks)
            seen = await to_thread.run_sync(SeenIds, scratch / "names")
            with closing(seen):
                yield triage, PlannedNames(keys, history, seen, spelt=spelt)
