"""The summaries of the runs, and the chain of hashes that seals them and the manifests.

Each summary ends with a seal, the SHA-256 of its own bytes, and names the SHA-256 of its manifest and of the summary
before it. So a change to any file of the archive's past breaks a link that can be checked.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from bulkfetch.durable import disk_errors, replace_file
from bulkfetch.errors import FatalError, UsageError
from bulkfetch.keys import MANIFESTS
from bulkfetch.manifest.rows import refuse_newer
from bulkfetch.manifest.runs import Run, list_runs
from bulkfetch.models import RunResult, Summary
from bulkfetch.text import printable

SUMMARY_VERSION = 1

CLOCK_TOLERANCE = timedelta(minutes=1)
"""By how much the clocks of two machines at work on one archive may differ."""

_SEAL = b',\n  "seal": "'


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken link or seal: `file` is relative to the archive, `message` says what is wrong with it."""

    file: str
    message: str


def read_summary(path: Path) -> Summary:
    """The summary in `path`, its own seal checked.

    Raises:
        FatalError: it cannot be read, or is not as it was written.
        UsageError: a newer bulkfetch wrote it.
    """
    with disk_errors(f"read {path}"):
        return _decode_summary(path.read_bytes(), path.name)


def write_summary(
    root: Path, run: str, result: RunResult, *, manifest: str, rows: int, sha256: str, shared: bool = False
) -> Summary:
    """Write the summary of `run` durably, behind the summaries before it, and return it.

    `manifest` is the name of the run's rows, `rows` their number, and `sha256` the hex digest of them all.

    Raises:
        FatalError: the summary cannot be written.
    """
    with disk_errors(f"write the summary of run {run}"):
        heads = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _chain_heads(list_runs(root))}
        previous = max(heads, default=None)
        sealed = Summary(
            **msgspec.structs.asdict(result),
            run=run,
            shared=shared,
            manifest=manifest,
            manifest_rows=rows,
            manifest_sha256=sha256,
            previous=previous,
            previous_sha256=heads.pop(previous) if previous else None,
            beside=heads,
        )
        path = root / MANIFESTS / f"{run}.json"
        # Beside it, not below .bulkfetch: the manifests may have a file system of their own.
        replace_file(path, _encode_summary(sealed), temporary=path.with_name(f".{path.name}.part"))
    return sealed


def verify_chain(root: Path) -> list[Problem]:
    """The problems of the summaries and of the manifests that they seal. Every changed byte is found, and every lost
    file except the newest summary. Nothing seals the manifests of runs that died, so they are not judged.

    Raises:
        FatalError: a file cannot be read.
        UsageError: a newer bulkfetch wrote a summary.
    """
    problems = []
    runs = [run for run in list_runs(root) if run.summary]
    digests: dict[str, str] = {}
    summaries: dict[str, Summary] = {}
    for run in runs:
        path = root / MANIFESTS / f"{run.id}.json"
        with disk_errors(f"read {path}"):
            data = path.read_bytes()
        digests[path.name] = hashlib.sha256(data).hexdigest()
        try:
            summaries[path.name] = _decode_summary(data, path.name)
        except UsageError:
            raise
        except FatalError as error:
            problems.append(Problem(f"{MANIFESTS}/{path.name}", str(error)))
            continue
        problems += _manifest_problems(run, summaries[path.name])
    return problems + _link_problems(summaries, digests)


def _manifest_problems(run: Run, summary: Summary) -> list[Problem]:
    file = f"{MANIFESTS}/{run.id}.jsonl"
    if run.manifest is None:
        # In a bucket a run without rows has no object but its summary.
        empty = not summary.manifest_rows and summary.manifest != f"{run.id}.jsonl"
        return [] if empty else [Problem(file, "it is missing, but its run has a summary")]
    digest = hashlib.sha256()
    rows = 0
    with disk_errors(f"read {run.manifest}"), run.manifest.open("rb") as manifest:
        while block := manifest.read(1 << 20):
            digest.update(block)
            rows += block.count(b"\n")
    if digest.hexdigest() != summary.manifest_sha256:
        return [Problem(file, "it is not as its run wrote it (SHA-256 differs from the summary's)")]
    if rows != summary.manifest_rows:
        return [Problem(file, f"it holds {rows} rows, the summary says {summary.manifest_rows}")]
    return []


def _link_problems(summaries: dict[str, Summary], digests: dict[str, str]) -> list[Problem]:
    problems = []
    followers: dict[str | None, list[str]] = {}
    for name, summary in summaries.items():
        for previous, sha256 in _sealed_by(summary).items():
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


def _sealed_by(summary: Summary) -> dict[str, str]:
    """The summaries that `summary` seals, with their SHA-256."""
    previous = {} if summary.previous is None else {summary.previous: summary.previous_sha256 or ""}
    return {**previous, **summary.beside}


def _chain_heads(runs: Sequence[Run]) -> list[Path]:
    """The summaries that no other one follows: one, unless several runs were at work at a time."""
    heads = {run.summary.name: run.summary for run in runs if run.summary}
    for path in list(heads.values()):
        try:
            sealed = _sealed_by(read_summary(path))
        except FatalError:  # `verify_chain` reports it; a new run can still be chained behind it
            continue
        for name in sealed:
            heads.pop(name, None)
    return list(heads.values())


def _encode_summary(summary: Summary) -> bytes:
    """`summary` as JSON to read, with a last member `seal`: the SHA-256 of all bytes before it."""
    return _seal(msgspec.json.format(msgspec.json.encode(summary), indent=2).removesuffix(b"\n}"))


def _seal(body: bytes) -> bytes:
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def _decode_summary(data: bytes, name: str) -> Summary:
    refuse_newer(data, SUMMARY_VERSION)
    if _seal(data.rpartition(_SEAL)[0]) != data:
        raise FatalError(f"the summary {printable(name)} is damaged: it is not as its run wrote it")
    try:
        return msgspec.json.decode(data, type=Summary)
    except ValueError as error:
        raise FatalError(f"the summary {printable(name)} is damaged: it cannot be read") from error
