"""How the manifests of a bucket are laid out: a bucket knows no append, so a run's rows go up as immutable objects.

`.bulkfetch/rows/<run>/0000000001.jsonl` and so on are the segments of a run, each put as soon as its rows are there.
Up to a thousand segments are put once more as one pack, `manifests/<run>.rows-0000000001-0000001000.jsonl`. So a reader
lists a few packs, not the segments that they hold, and `manifests/*.jsonl` holds no row twice. `manifests/<run>.json`,
the summary, comes last: then the packs hold all rows of the run. Nothing of this is ever deleted.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from bulkfetch.errors import DamagedManifest
from bulkfetch.keys import MANIFESTS, STATE
from bulkfetch.manifest.runs import RUN_ID
from bulkfetch.models import ObjectMeta
from bulkfetch.text import printable

ROWS = f"{STATE}/rows"
"""The folder whose folders hold the segments of the runs."""

# Numbers have one width, because a bucket sorts keys as text. The summary sorts before the packs but is put after
# them: a listing that takes several requests, and shows the summary, therefore shows all packs.
_RUN = rf"{MANIFESTS}/(?P<run>{RUN_ID.pattern})"
_ROWS_OF = rf"{ROWS}/(?P<run>{RUN_ID.pattern})/"
_SEGMENT = re.compile(rf"{_ROWS_OF}(?P<first>[0-9]+)\.jsonl", re.ASCII)
_PACK = re.compile(rf"{_RUN}\.rows-(?P<first>[0-9]+)-(?P<last>[0-9]+)\.jsonl", re.ASCII)
_SUMMARY = re.compile(rf"{_RUN}\.json", re.ASCII)
_FOLDER = re.compile(_ROWS_OF, re.ASCII)


HEALING = (
    "bring it back from an earlier version or a backup of the bucket; if there is none, take the rest of that run's "
    "manifest away as well: what it stored is then fetched again, and adopted in its place"
)
"""The way out where rows are in the bucket no more."""


@dataclass(frozen=True, slots=True)
class Part:
    """The segments `first` to `last` of a run, as one object of `size` bytes."""

    key: str
    size: int
    first: int
    last: int


@dataclass(slots=True)
class Layout:
    """What the top levels of an archive's manifests and segments show. `runs` are the runs that have rows."""

    runs: set[str] = field(default_factory=set)
    packs: defaultdict[str, list[Part]] = field(default_factory=lambda: defaultdict(list))
    summaries: dict[str, ObjectMeta] = field(default_factory=dict)

    @classmethod
    def of(cls, objects: Iterable[ObjectMeta], folders: Iterable[str]) -> Self:
        """Sort out the `objects` among the manifests and the `folders` of segments; what is none of ours is left
        out."""
        layout = cls()
        for meta in objects:
            if found := _PACK.fullmatch(meta.key):
                layout.packs[found["run"]].append(Part(meta.key, meta.size, int(found["first"]), int(found["last"])))
            elif found := _SUMMARY.fullmatch(meta.key):
                layout.summaries[found["run"]] = meta
        layout.runs.update(layout.packs)
        layout.runs.update(found["run"] for folder in folders if (found := _FOLDER.fullmatch(folder)))
        return layout

    def last_in_packs(self, run: str) -> int:
        """The number of the last segment of `run` that a pack holds; 0 if there is none."""
        return max((part.last for part in self.packs.get(run, ())), default=0)

    def growing(self) -> set[str]:
        """The runs that may have segments outside their packs. A run that has ended has none."""
        return {run for run in self.runs if run not in self.summaries or run not in self.packs}


def segments_folder(run: str) -> str:
    """Where the segments of `run` are."""
    return f"{ROWS}/{run}/"


def segment_key(run: str, number: int) -> str:
    """Where segment `number` of `run` is; keys sort by their numbers."""
    return f"{segments_folder(run)}{number:010}.jsonl"


def pack_key(run: str, first: int, last: int) -> str:
    """Where the segments `first` to `last` of `run` are as one object."""
    return f"{MANIFESTS}/{run}.rows-{first:010}-{last:010}.jsonl"


def summary_key(run: str) -> str:
    """Where the summary of `run` is."""
    return f"{MANIFESTS}/{run}.json"


def segments(objects: Iterable[ObjectMeta]) -> list[Part]:
    """The segments among `objects`."""
    found = ((meta, _SEGMENT.fullmatch(meta.key)) for meta in objects)
    return [Part(meta.key, meta.size, int(match["first"]), int(match["first"])) for meta, match in found if match]


def missing_part(run: str, number: int) -> DamagedManifest:
    """What to raise where no object of `run` holds the segment `number`."""
    first = segment_key(run, number)
    return DamagedManifest(
        f"the manifest of run {printable(run)} is damaged: segments are missing from {first} on: {HEALING}"
    )


def in_order(run: str, parts: Iterable[Part]) -> Sequence[Part]:
    """`parts`, which are all of the manifest of `run`, from its first segment to its last.

    Raises:
        DamagedManifest: there is a hole: rows are missing.
    """
    ordered = sorted(parts, key=lambda part: part.first)
    expected = 1
    for part in ordered:
        if part.first != expected:
            raise missing_part(run, expected)
        expected = part.last + 1
    return ordered
