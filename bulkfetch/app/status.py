"""`bulkfetch status`: an archive's morning in one value, from its manifests alone."""

from collections.abc import Mapping
from functools import partial

import anyio
import msgspec

from bulkfetch.app.look import Place, glance_at
from bulkfetch.app.open_archive import utc_now
from bulkfetch.app.outside import with_way_out
from bulkfetch.app.run_history import PastRun, RunAtWork, RunHistory, read_runs
from bulkfetch.config import Config
from bulkfetch.durable import disk_errors
from bulkfetch.errors import ExitCode, FatalError, UsageError
from bulkfetch.keys import STATE
from bulkfetch.manifest import LedgerIndex
from bulkfetch.manifest.overview import (
    AcceptedGaps,
    RejectedRows,
    UnresolvedReason,
    accepted_gaps,
    count_stored,
    rejected_rows,
    unresolved_reasons,
)
from bulkfetch.models import utc_iso
from bulkfetch.text import printable

VERIFICATION = f"{STATE}/verification.json"
"""Where the record of the last verification is, relative to the archive."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The last verification: when (UTC ISO 8601), of what kind, and how many objects it checked and found missing,
    damaged or without a row. `unmended` is how much of the damage is left."""

    run_at: str
    kind: str
    checked: int
    missing: int
    damaged: int
    extra: int
    unmended: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """An archive at the moment `at` (UTC ISO 8601). With `source`, `last_run`, `runs`, `at_work`, `unresolved` and
    `rejected` are those of that source alone.

    `runs` are the last ones, the newest first; `last_run` is the first of them. `exit_code` is what the command ends
    with.
    """

    v: int = 1
    at: str
    destination: str
    source: str | None
    exit_code: int
    last_run: PastRun | None
    stored: int
    unresolved: list[UnresolvedReason]
    rejected: list[RejectedRows]
    accepted: AcceptedGaps
    at_work: list[RunAtWork]
    runs: list[PastRun]
    verification: Verification | None


def archive_status(config: Config, *, source: str | None, environ: Mapping[str, str]) -> Status:
    """The status of the archive that `config` names; with `source`, of what that source is about.

    Nothing of the archive is changed or locked. `environ` holds the credentials for a bucket.

    Raises:
        UsageError: there is no archive, or it has never had a run of `source`.
        FatalError: it cannot be read, or a manifest is damaged.
    """
    environ = with_way_out(environ, config.api)
    return anyio.run(glance_at, config.destination, environ, partial(_read, source=source))


def _read(place: Place, ledger: LedgerIndex, *, source: str | None) -> Status:
    now = utc_now()
    with disk_errors(f"read the manifests in {place.root}"):
        history = read_runs(place, now, source)
    if source is not None and not history.of_source:
        listed = ", ".join(printable(name, 200) for name in sorted(history.sources)) or "none"
        raise UsageError(f"no run has read a source {printable(source, 200)!r}; those of this archive: {listed}")
    of_source = None if source is None else history.of_source
    unresolved = ledger.ask(lambda database: unresolved_reasons(database, of_source))
    rejected = ledger.ask(lambda database: rejected_rows(database, source))
    verification = _verification(place)
    return Status(
        at=utc_iso(now),
        destination=place.name,
        source=source,
        exit_code=_exit_code(verification, history, unresolved, rejected),
        last_run=history.past[0] if history.past else None,
        stored=ledger.ask(count_stored),
        unresolved=unresolved,
        rejected=rejected,
        accepted=ledger.ask(accepted_gaps),
        at_work=history.at_work,
        runs=history.past,
        verification=verification,
    )


def _exit_code(
    verification: Verification | None,
    history: RunHistory,
    unresolved: list[UnresolvedReason],
    rejected: list[RejectedRows],
) -> ExitCode:
    if verification is not None and verification.unmended:
        return ExitCode.VERIFY_FAILED
    if history.stopped_early:
        return ExitCode.STOPPED
    if any(each.retryable for each in unresolved):
        return ExitCode.FAILED_RETRYABLE
    if unresolved or rejected or (history.past and history.past[0].falls_short):
        return ExitCode.FAILED
    return ExitCode.COMPLETE


def _verification(place: Place) -> Verification | None:
    """The record of the last verification, if there is one that can be read."""
    data = place.read(VERIFICATION)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Verification)
    except ValueError:
        raise FatalError(f"{VERIFICATION} is damaged: run bulkfetch verify, which writes it anew") from None
