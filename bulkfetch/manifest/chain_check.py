"""Looks for what was changed in the summaries and in the manifests that they seal."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from bulkfetch.durable import disk_errors
from bulkfetch.errors import FatalError
from bulkfetch.keys import MANIFESTS
from bulkfetch.manifest.chain import decode_summary, sealed_by
from bulkfetch.manifest.rows import BLOCK_BYTES, decode_row
from bulkfetch.manifest.runs import Run, list_runs
from bulkfetch.models import Summary
from bulkfetch.text import printable

CLOCK_TOLERANCE = timedelta(minutes=1)
"""By how much the clocks of two machines at work on one archive may differ."""

LATEST_ROW = timedelta(minutes=10)
"""How long after its invoice a row may come into a bucket, which may be out of service, or a clock be set wrong."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with `file`, which is relative to the archive; `message` says what."""

    file: str
    message: str


@dataclass(slots=True)
class Seals:
    """What says how a manifest was: `whole`, the summary of its own run, and `parts`, the digests (hex) that other
    summaries give of its beginning, by the length in bytes, with the names of these summaries."""

    whole: Summary | None = None
    parts: dict[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(slots=True)
class Chain:
    """The summaries of an archive by name, with the SHA-256 (hex) of each file, those that are damaged included.

    `unsealed` are the runs whose manifests, or the last rows of them, no summary seals: at work, or dead since.
    """

    summaries: dict[str, Summary] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unsealed: list[str] = field(default_factory=list)

    def heads(self) -> list[str]:
        """The names of the summaries that no other one seals: of the newest run, or of several beside each other."""
        sealed = {name for summary in self.summaries.values() for name in sealed_by(summary)}
        return [name for name in self.digests if name not in sealed]


def verify_chain(root: Path) -> list[Problem]:
    """The problems of the summaries and of the manifests that they seal: see `check_chain`."""
    return check_chain(root).problems


def check_chain(root: Path) -> Chain:
    """Read the summaries and the manifests in `root`. Every changed byte is found, and every lost file except the
    newest summaries: for them somebody has to know the digest. What a run wrote that has no summary is judged as far
    as another summary seals it.

    Raises:
        FatalError: a file cannot be read.
    """
    chain = Chain()
    runs = {run.id: run for run in list_runs(root)}
    seals: defaultdict[str, Seals] = defaultdict(Seals)
    for run in runs.values():
        if run.summary and (summary := _read_summary(chain, run.summary)):
            seals[run.id].whole = summary
    for name, summary in chain.summaries.items():
        for unfinished, part in summary.unfinished.items():
            seals[unfinished].parts[part.bytes] = (part.sha256, name)
    newest = max((summary.started_at for summary in chain.summaries.values()), default=None)
    for run_id in sorted(runs.keys() | seals.keys()):
        run = runs.get(run_id) or Run(id=run_id, manifest=None, summary=None)
        chain.problems += _manifest_problems(chain, run, seals[run_id], newest)
    chain.problems += _link_problems(chain.summaries, chain.digests)
    return chain


def _read_summary(chain: Chain, path: Path) -> Summary | None:
    with disk_errors(f"read {path}"):
        data = path.read_bytes()
    chain.digests[path.name] = hashlib.sha256(data).hexdigest()
    try:
        chain.summaries[path.name] = summary = decode_summary(data, path.name)
    except FatalError as error:  # a version that is not known included: a changed byte can make one
        chain.problems.append(Problem(f"{MANIFESTS}/{path.name}", str(error)))
        return None
    return summary


def _manifest_problems(chain: Chain, run: Run, seals: Seals, newest: str | None) -> list[Problem]:
    file, summary = f"{MANIFESTS}/{printable(run.id)}.jsonl", seals.whole
    if run.manifest is None:
        if summary is None:
            return [Problem(file, f"it is missing, but {name} seals it") for _, name in [*seals.parts.values()][:1]]
        # In a bucket a run without rows has no object but its summary.
        empty = not summary.manifest_rows and summary.manifest != f"{run.id}.jsonl"
        return [] if empty else [Problem(file, "it is missing, but its run has a summary")]
    with disk_errors(f"read {run.manifest}"):
        found = _read_manifest(run.manifest, sorted(seals.parts))
        if summary is None and run.summary is None and found.size > max(seals.parts, default=0):
            chain.unsealed.append(run.id)
            late = _first_moment(run.manifest, max(seals.parts, default=0))
        else:
            late = None
    for size, (sha256, name) in sorted(seals.parts.items()):
        if found.parts.get(size) != sha256:
            return [Problem(file, f"its first {size:,} bytes are not as they were when {name} sealed them")]
    if summary and found.sha256 != summary.manifest_sha256:
        return [Problem(file, "it is not as its run wrote it (SHA-256 differs from the summary's)")]
    if summary and found.rows != summary.manifest_rows:
        return [Problem(file, f"it holds {found.rows} rows, the summary says {summary.manifest_rows}")]
    if late and newest and datetime.fromisoformat(late) < datetime.fromisoformat(newest) - LATEST_ROW:
        return [Problem(file, f"it has rows of {late}, which a summary of later runs ought to seal, and none does")]
    return []


@dataclass(slots=True)
class _Read:
    sha256: str
    rows: int
    size: int
    parts: dict[int, str]


def _read_manifest(path: Path, ends: Sequence[int]) -> _Read:
    """The SHA-256 of a manifest, and of its beginnings that have the lengths `ends` (ascending)."""
    digest, rows, size = hashlib.sha256(), 0, 0
    parts: dict[int, str] = {}
    with path.open("rb") as file:
        for end in [*ends, None]:
            while end is None or size < end:
                block = file.read(BLOCK_BYTES if end is None else min(BLOCK_BYTES, end - size))
                if not block:
                    break
                digest.update(block)
                rows += block.count(b"\n")
                size += len(block)
            if size == end:
                parts[end] = digest.hexdigest()
    return _Read(digest.hexdigest(), rows, size, parts)


def _first_moment(path: Path, start: int) -> str | None:
    """When the row that begins at byte `start` was finished; None where there is no whole row."""
    with path.open("rb") as file:
        file.seek(start)
        try:
            moment = decode_row(file.readline()).finished_at
            datetime.fromisoformat(moment)
        except ValueError:
            return None
    return moment


def _link_problems(summaries: Mapping[str, Summary], digests: Mapping[str, str]) -> list[Problem]:
    problems = []
    followers: dict[str | None, list[str]] = {}
    for name, summary in summaries.items():
        for previous, sha256 in sealed_by(summary).items():
            if previous not in digests:
                problems.append(Problem(f"{MANIFESTS}/{printable(previous)}", f"it is missing, but {name} follows it"))
            elif digests[previous] != sha256:
                problems.append(Problem(f"{MANIFESTS}/{previous}", f"it is not as it was when {name} sealed it"))
        before = followers.setdefault(summary.previous, [])
        for other in before:
            if not _at_the_same_time(summaries[other], summary):
                message = f"the chain forks: {other} follows the same summary"
                problems.append(Problem(f"{MANIFESTS}/{name}", message))
                break
        before.append(name)
    return problems


def _at_the_same_time(one: Summary, other: Summary) -> bool:
    """Whether neither run could know of the other's end: the workers of a queue, or two machines on one bucket."""
    latest_start = datetime.fromisoformat(max(one.started_at, other.started_at))
    return datetime.fromisoformat(min(one.finished_at, other.finished_at)) > latest_start - CLOCK_TOLERANCE
