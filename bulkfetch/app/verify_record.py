"""What the last verification found, as it is kept in the archive: `.bulkfetch/verification.json`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bulkfetch.app.verify_findings import Finding, Findings, Kind
from bulkfetch.durable import disk_errors, replace_file
from bulkfetch.keys import STATE

RECORD = f"{STATE}/verification.json"

NAMED = 1000
"""How many findings a record names at most."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification did and found.

    `run_at` is when it began (UTC ISO 8601). `kind` is `full`, `quick`, `sample`, `subset` or `ids`. The manifests name
    `objects`; `checked` of them were looked at, `read` of these were compared by content, and `noted` of those by the
    checksum that the store itself keeps. `bytes` were read. `missing`, `damaged`, `extra`, `chain` and `not_stored` are
    errors; `set_aside` of the extra ones were moved to quarantine. `superseded` and `meeting` are none. `unsealed` are
    the runs with rows that no summary seals yet, `heads` the SHA-256 of the newest summaries.

    `unmended` counts the errors that are left, those of earlier verifications included that this one did not look at;
    `findings` names the first of them.
    """

    v: int = 1
    run_at: str
    seconds: float
    destination: str
    kind: str
    source: str | None = None
    objects: int
    checked: int
    read: int
    noted: int
    bytes: int
    missing: int
    damaged: int
    extra: int
    chain: int
    not_stored: int
    accepted: int
    superseded: int
    meeting: int
    set_aside: int
    unmended: int
    unsealed: Sequence[str]
    heads: Sequence[str]
    findings: Sequence[Finding]

    @property
    def errors(self) -> int:
        """How many errors this verification has found."""
        return self.missing + self.damaged + self.extra + self.chain + self.not_stored


class _Earlier(msgspec.Struct, frozen=True):
    findings: Sequence[Finding]


def earlier_findings(data: bytes | None) -> Sequence[Finding]:
    """The unmended findings of the record in `data`; none where there is none that can be read."""
    try:
        return msgspec.json.decode(data or b"", type=_Earlier).findings
    except ValueError:
        return ()


def unmended(findings: Findings, earlier: Sequence[Finding], looked_at: Callable[[Finding], bool]) -> list[Finding]:
    """The first of what is wrong by now: what was found, and what was found `earlier` and not `looked_at` again."""
    kept: list[Finding] = []
    for page in findings.pages(Kind.MISSING, Kind.DAMAGED, Kind.EXTRA, Kind.CHAIN, Kind.NOT_STORED):
        kept += (finding for _, finding in page if not finding.set_aside)
        if len(kept) >= NAMED:
            break
    known = {(finding.finding, finding.key, finding.invoice_id) for finding in kept}
    kept += (each for each in earlier if (each.finding, each.key, each.invoice_id) not in known and not looked_at(each))
    return kept[:NAMED]


def read_record(root: Path) -> bytes | None:
    """The record in the archive `root`; None if there is none."""
    with disk_errors(f"read {root / RECORD}"):
        try:
            return (root / RECORD).read_bytes()
        except FileNotFoundError:
            return None


def write_record(root: Path, record: bytes) -> None:
    """Keep `record` in the archive `root`, durably.

    Raises:
        FatalError: it cannot be written.
    """
    path = root / RECORD
    with disk_errors(f"write {path}"):
        replace_file(path, record, temporary=path.with_name(f"{path.name}.part"))


def encoded(verification: Verification) -> bytes:
    """`verification` as JSON to read."""
    return msgspec.json.format(msgspec.json.encode(verification), indent=2) + b"\n"
