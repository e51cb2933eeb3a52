"""`bulkfetch accept`: a person's word that invoices will not come, and its withdrawal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import anyio
import msgspec
from anyio import to_thread

from bulkfetch.app.look import Place, find_place, insist_on_archive, turns_file
from bulkfetch.app.open_archive import utc_now
from bulkfetch.app.open_input import open_rows
from bulkfetch.app.outside import with_way_out
from bulkfetch.app.summary import versions
from bulkfetch.config import Config
from bulkfetch.errors import ExitCode, Reason, UsageError
from bulkfetch.events import Listener
from bulkfetch.keys import check_invoice_id
from bulkfetch.manifest import LedgerIndex
from bulkfetch.manifest.bucket_mirror import Mirror
from bulkfetch.manifest.invoice_state import REJECTED_RUN
from bulkfetch.manifest.lock import taking_turns
from bulkfetch.manifest.open_run import open_ledger
from bulkfetch.manifest.overview import known_ids
from bulkfetch.manifest.runs import check_run_id
from bulkfetch.manifest.side_manifest import write_side_manifest
from bulkfetch.manifest.unresolved import accepted_rejects, rejects_of
from bulkfetch.models import (
    ACCEPT,
    ROW_VERSION,
    Counts,
    Delivery,
    Malformed,
    Outcome,
    RequestCounts,
    Row,
    RunResult,
    SkippedRow,
    utc_iso,
)
from bulkfetch.text import printable

MOST = 100_000
"""So many invoices at a time: all are held in memory."""

_GROUP = 1_000


class Accepted(msgspec.Struct, kw_only=True):
    """What became of the word on some invoices: how many have it on record now, in the manifest of `run` (None where
    none has). `stored` are IDs without a row, as they are no gaps, and so are `not_accepted`, as there is nothing to
    withdraw. `unknown` are recorded, but no run has ever met them."""

    run: str | None = None
    recorded: int = 0
    stored: list[str] = msgspec.field(default_factory=list)
    not_accepted: list[str] = msgspec.field(default_factory=list)
    unknown: list[str] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Word:
    """What a person says: that `ids` will not come, or the rows that the run `rejected` could not use, and why; or, to
    `withdraw`, that this is not so any more."""

    ids: Sequence[str]
    rejected: str | None
    reason: str
    withdraw: bool


def accept_invoices(config: Config, word: Word, *, environ: Mapping[str, str]) -> Accepted:
    """Record `word` in the archive `config.destination`, in a manifest of its own, beside whatever runs are at work:
    it counts from the next one.

    Raises:
        UsageError: there is no archive, or something is no invoice ID, or no such rows count; nothing is recorded.
        FatalError: the archive cannot be read or written.
    """
    return anyio.run(_accept, config, word, with_way_out(environ, config.api))


def read_ids(config: Config, file: str, notify: Listener) -> list[str]:
    """The invoice IDs in `file`, which is read as the input of a run is.

    Raises:
        UsageError: it cannot be read, or a row of it has no usable ID.
    """

    async def read() -> list[str]:
        ids: list[str] = []
        rows = await open_rows(config, file, notify)
        async for batch in rows.batches():
            for row in batch:
                if isinstance(row, Malformed):
                    raise UsageError(f"{printable(file, 200)}, line {row.line}: {printable(row.message)}")
                ids.append(row.invoice_id)
            _refuse_too_many(ids)
        return ids

    return anyio.run(read)


async def _accept(config: Config, word: Word, environ: Mapping[str, str]) -> Accepted:
    _refuse_too_many(word.ids)
    for invoice_id in word.ids:
        if wrong := check_invoice_id(invoice_id):
            raise UsageError(f"{printable(invoice_id, 200)!r}: {wrong}")
    if word.rejected is not None:
        check_run_id(word.rejected)
    place = await find_place(config.destination, environ)
    return await to_thread.run_sync(_record, place, word)


def _refuse_too_many(ids: Sequence[str]) -> None:
    if len(ids) > MOST:
        raise UsageError(f"these are too many invoices at a time: give at most {MOST:,}")


def _record(place: Place, word: Word) -> Accepted:
    with ExitStack() as stack:
        mirror = None
        if place.objects is not None:
            stack.enter_context(taking_turns(turns_file(place)))
            mirror = Mirror(place.objects, place.root)
            mirror.pull()
        insist_on_archive(place)
        opening = LedgerIndex.snapshot(place.root) if mirror is None else open_ledger(place.root, mirror, shared=False)
        ledger = stack.enter_context(closing(opening))
        done = Accepted()
        about = _about_ids(ledger, word, done) + _about_rejects(ledger, word)
        if about:
            now = utc_now()
            groups, result = partial(_rows, about, word, utc_iso(now)), partial(_result, place, word, utc_iso(now))
            done.run = write_side_manifest(place.root, now, groups, result, mirror).run
            done.recorded = len(about)
        return done


def _about_ids(ledger: LedgerIndex, word: Word, done: Accepted) -> list[Delivery]:
    """What is to be recorded of the IDs; `done` is told of the others."""
    about: list[str] = []
    ids = [*dict.fromkeys(word.ids)]
    for start in range(0, len(ids), _GROUP):
        group = ids[start : start + _GROUP]
        if word.withdraw:
            accepted = ledger.accepted(group)
            about += accepted
            done.not_accepted += [each for each in group if each not in accepted]
            continue
        stored, known = ledger.stored(group), ledger.ask(partial(known_ids, ids=group))
        about += [each for each in group if each not in stored]
        done.stored += stored
        done.unknown += [each for each in group if each not in known]
    return [Delivery(each) for each in about]


def _about_rejects(ledger: LedgerIndex, word: Word) -> list[Delivery]:
    if word.rejected is None:
        return []
    run = word.rejected
    found = ledger.ask(lambda database: [*rejects_of(database, run)])
    if not found:
        raise UsageError(f"run {run} has no rejected rows that count: status names the runs that have")
    if word.withdraw and run not in ledger.ask(accepted_rejects):
        raise UsageError(f"the rejected rows of run {run} are not accepted: there is nothing to withdraw")
    return [Delivery(reject.raw, reject.line, {REJECTED_RUN: run}) for reject in found]


def _rows(about: Sequence[Delivery], word: Word, now: str, run: str) -> Iterator[Sequence[Row]]:
    for start in range(0, len(about), _GROUP):
        yield [
            SkippedRow(
                v=ROW_VERSION,
                run=run,
                invoice_id=each.invoice_id,
                outcome=Outcome.SKIPPED,
                reason=Reason.WITHDRAWN if word.withdraw else Reason.ACCEPTED,
                message=printable(word.reason) or None,
                started_at=now,
                finished_at=now,
                line=each.line,
                fields=each.fields,
            )
            for each in about[start : start + _GROUP]
        ]


def _result(place: Place, word: Word, now: str, rows: int) -> RunResult:
    return RunResult(
        kind=ACCEPT,
        exit_code=ExitCode.COMPLETE,
        finished=True,
        complete=True,
        stopped_by=None,
        started_at=now,
        finished_at=now,
        seconds=0.0,
        counts=Counts(read=rows, skipped=rows),
        reasons={Reason.WITHDRAWN if word.withdraw else Reason.ACCEPTED: rows},
        bytes_stored=0,
        requests={"links": RequestCounts(), "downloads": RequestCounts()},
        source="",
        input_sha256=None,
        input_bytes=None,
        destination=place.name,
        versions=versions(),
    )
