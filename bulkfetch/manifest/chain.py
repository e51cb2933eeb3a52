"""The summaries of the runs, and the chain of hashes that seals them and the manifests.

Each summary ends with a seal, the SHA-256 of its own bytes, and names the SHA-256 of its manifest and of the summary
before it. So a change to any file of the archive's past breaks a link that can be checked (`chain_check`). A run that
died leaves no summary: the next one seals the rows that it left, up to their last byte. So it does with the rows of a
run that is still at work.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from bulkfetch.durable import disk_errors, replace_file
from bulkfetch.errors import FatalError
from bulkfetch.keys import MANIFESTS
from bulkfetch.manifest.row_file import whole_size
from bulkfetch.manifest.rows import refuse_newer
from bulkfetch.manifest.runs import Run, list_runs
from bulkfetch.models import RunResult, SealedPart, Summary
from bulkfetch.text import printable

SUMMARY_VERSION = 1

_SEAL = b',\n  "seal": "'


def read_summary(path: Path) -> Summary:
    """The summary in `path`, its own seal checked.

    Raises:
        FatalError: it cannot be read, or is not as it was written.
        UsageError: a newer bulkfetch wrote it.
    """
    with disk_errors(f"read {path}"):
        return decode_summary(path.read_bytes(), path.name)


def head_of(summary: Summary) -> str:
    """The SHA-256, in hex, of the file of `summary`: whoever keeps it can tell later that nothing before it changed."""
    return hashlib.sha256(_encode_summary(summary)).hexdigest()


def write_summary(
    root: Path, run: str, result: RunResult, *, manifest: str, rows: int, sha256: str, shared: bool = False
) -> Summary:
    """Write the summary of `run` durably, behind the summaries before it, and return it.

    `manifest` is the name of the run's rows, `rows` their number, and `sha256` the hex digest of them all.

    Raises:
        FatalError: the summary cannot be written.
    """
    with disk_errors(f"write the summary of run {run}"):
        runs = [other for other in list_runs(root) if other.id != run]
        summaries = _readable(runs)
        heads = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _chain_heads(runs, summaries)}
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
            unfinished=_unsealed_parts(runs, summaries.values()),
        )
        path = root / MANIFESTS / f"{run}.json"
        # Beside it, not below .bulkfetch: the manifests may have a file system of their own.
        replace_file(path, _encode_summary(sealed), temporary=path.with_name(f".{path.name}.part"))
    return sealed


def sealed_by(summary: Summary) -> dict[str, str]:
    """The summaries that `summary` seals, with their SHA-256."""
    previous = {} if summary.previous is None else {summary.previous: summary.previous_sha256 or ""}
    return {**previous, **summary.beside}


def _readable(runs: Sequence[Run]) -> dict[str, Summary]:
    """The summaries of `runs` by name. `verify_chain` reports those that are damaged; a run can be chained behind
    them."""
    found = {}
    for path in (run.summary for run in runs if run.summary):
        with suppress(FatalError):
            found[path.name] = read_summary(path)
    return found


def _chain_heads(runs: Sequence[Run], summaries: Mapping[str, Summary]) -> list[Path]:
    """The summaries that no other one follows: one, unless several runs were at work at a time."""
    heads = {run.summary.name: run.summary for run in runs if run.summary}
    for summary in summaries.values():
        for name in sealed_by(summary):
            heads.pop(name, None)
    return list(heads.values())


def _unsealed_parts(runs: Sequence[Run], summaries: Collection[Summary]) -> dict[str, SealedPart]:
    """What no summary seals yet of the manifests of `runs` without one: each up to the end of its whole rows."""
    known = Counter[str]()
    for summary in summaries:
        known |= Counter({run: part.bytes for run, part in summary.unfinished.items()})
    parts = {}
    for run in runs:
        if run.manifest and not run.summary and (end := whole_size(run.manifest)) > known[run.id]:
            parts[run.id] = SealedPart(end, _digest(run.manifest, end))
    return parts


def _digest(path: Path, end: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while end > 0 and (block := file.read(min(end, 1 << 20))):
            digest.update(block)
            end -= len(block)
    return digest.hexdigest()


def _encode_summary(summary: Summary) -> bytes:
    """`summary` as JSON to read, with a last member `seal`: the SHA-256 of all bytes before it."""
    return _seal(msgspec.json.format(msgspec.json.encode(summary), indent=2).removesuffix(b"\n}"))


def _seal(body: bytes) -> bytes:
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def decode_summary(data: bytes, name: str) -> Summary:
    refuse_newer(data, SUMMARY_VERSION)
    if _seal(data.rpartition(_SEAL)[0]) != data:
        raise FatalError(f"the summary {printable(name)} is damaged: it is not as its run wrote it")
    try:
        return msgspec.json.decode(data, type=Summary)
    except ValueError as error:
        raise FatalError(f"the summary {printable(name)} is damaged: it cannot be read") from error
