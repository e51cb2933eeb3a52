"""`bulkfetch retry`: what is unresolved, again, from the manifests alone."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import anyio
import msgspec
from anyio import to_thread

from bulkfetch.app.look import look_at
from bulkfetch.app.open_input import Input
from bulkfetch.app.outside import with_way_out
from bulkfetch.app.run import archive
from bulkfetch.config import Config
from bulkfetch.durable import disk_errors
from bulkfetch.errors import DamagedManifest, PermanentError, UsageError
from bulkfetch.events import Listener
from bulkfetch.interfaces import Capabilities
from bulkfetch.keys import MANIFESTS, KeyTemplate
from bulkfetch.manifest import LedgerIndex, decode_row
from bulkfetch.manifest.overview import EXAMPLES, UnresolvedReason
from bulkfetch.manifest.unresolved import Unresolved
from bulkfetch.models import NO_LINES, RETRY_SOURCE, Delivery, InputRow, Row, Secret, Summary
from bulkfetch.pipeline.stop import Stop
from bulkfetch.text import printable

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which unresolved invoices are meant: those that failed for one of `reasons`, and whose newest failure is a row of
    `run`. What is empty chooses all."""

    reasons: frozenset[str] = frozenset()
    run: str | None = None

    def among(self, ledger: LedgerIndex) -> Iterator[Unresolved]:
        """The chosen ones of all that are unresolved by `ledger`, in flat memory. Blocks.

        Raises:
            FatalError: the ledger cannot be read.
        """
        for invoice in ledger.unresolved():
            if (not self.reasons or invoice.reason in self.reasons) and self.run in (None, invoice.run):
                yield invoice


class RetryPlan(msgspec.Struct, frozen=True):
    """What a retry would try: how many invoices, and which, by reason."""

    invoices: int
    reasons: list[UnresolvedReason]


def plan_retry(config: Config, chosen: Chosen, *, environ: Mapping[str, str]) -> RetryPlan:
    """What a retry of the `chosen` ones would try, were it started now. Nothing is called or changed.

    Raises:
        UsageError: there is no archive.
        FatalError: it cannot be read.
    """

    async def plan() -> RetryPlan:
        async with look_at(config.destination, with_way_out(environ, config.api)) as (_, ledger):
            return await to_thread.run_sync(_count, ledger, chosen)

    return anyio.run(plan)


async def retry_archive(
    config: Config,
    chosen: Chosen,
    *,
    any_key: bool,
    token: Secret | None,
    environ: Mapping[str, str],
    stop: Stop,
    listeners: Sequence[Listener],
) -> Summary | None:
    """Archive what is unresolved and `chosen`, with the columns that the input had; None if there is nothing.

    With `any_key`, the key template may give other keys than those that the invoices had when they failed.

    Raises:
        UsageError, FatalError: as `archive`; or the key template is not that of the run that failed.
    """
    async with look_at(config.destination, with_way_out(environ, config.api)) as (place, ledger):
        planned = await to_thread.run_sync(_count, ledger, chosen)
        if not planned.invoices:
            return None
        if not any_key:
            keys = KeyTemplate.parse(config.destination.key, config.source.date_format)
            await to_thread.run_sync(_check_keys, ledger, chosen, place.root, keys)
        # The list is made of failures: that it begins with many says nothing about this run.
        config = msgspec.structs.replace(
            config,
            source=msgspec.structs.replace(config.source, allow_empty=True, expect=0),
            limits=msgspec.structs.replace(config.limits, max_failed_ratio=1.0),
        )
        source = UnresolvedSource(place.root, ledger, chosen, planned.invoices)
        return await archive(config, Input(source), token=token, environ=environ, stop=stop, listeners=listeners)


@dataclass(slots=True)
class UnresolvedSource:
    """Hands out the `chosen` invoices, `total` of them, that are unresolved by `ledger`, each with the columns in its
    row in the manifests below `root`."""

    root: Path
    ledger: LedgerIndex
    chosen: Chosen
    total: int
    name: str = RETRY_SOURCE
    capabilities: Capabilities = field(default_factory=Capabilities)
    handed_out: int = 0
    returned: int = 0

    @property
    def not_rows(self) -> Mapping[str, int]:
        """See `interfaces.Source.not_rows`: there is none."""
        return NO_LINES

    async def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        invoices = self.chosen.among(self.ledger)
        while page := await to_thread.run_sync(lambda: list(islice(invoices, _AT_ONCE))):
            rows = await to_thread.run_sync(_rows_of, self.root, page)
            self.handed_out += len(rows)
            yield [Delivery(row.invoice_id, fields=row.fields) for row in rows]

    async def ack(self, input_row: InputRow, row: Row) -> None:
        """Nothing to do: the row is in a manifest."""

    async def nack(self, input_row: InputRow) -> None:  # noqa: ARG002 - the ledger keeps it
        """Nothing to do but to count."""
        self.returned += 1

    async def release(self, input_row: InputRow, delay: float = 0.0) -> None:  # noqa: ARG002 - as above
        """Nothing to do but to count."""
        self.returned += 1

    def estimate(self) -> int | None:
        """How many there were at the start."""
        return self.total

    def digest(self) -> tuple[str, int] | None:
        """None: manifests are no input with bytes of its own."""
        return None


def _count(ledger: LedgerIndex, chosen: Chosen) -> RetryPlan:
    found: dict[tuple[str, bool], UnresolvedReason] = {}
    total = 0
    for total, invoice in enumerate(chosen.among(ledger), 1):  # noqa: B007 - the count is used
        kind = (invoice.reason, invoice.retryable)
        known = found.get(kind) or UnresolvedReason(*kind, 0, invoice.first_failed_at, [])
        found[kind] = UnresolvedReason(
            *kind,
            known.invoices + 1,
            min(known.since, invoice.first_failed_at),
            known.examples if len(known.examples) >= EXAMPLES else [*known.examples, invoice.invoice_id],
        )
    return RetryPlan(total, sorted(found.values(), key=lambda each: (each.since, each.reason, each.retryable)))


def _check_keys(ledger: LedgerIndex, chosen: Chosen, root: Path, keys: KeyTemplate) -> None:
    """Pass if `keys` gives the keys that the invoices had when they failed: one of each run is looked at.

    Raises:
        UsageError: it gives another one.
    """
    looked = set[str]()
    for invoice in chosen.among(ledger):
        if invoice.key is None or invoice.run in looked:
            continue
        looked.add(invoice.run)
        (row,) = _rows_of(root, [invoice])
        try:
            if keys.gives(invoice.key, row.invoice_id, row.fields):
                continue
            would = printable(keys.key_for(row.invoice_id, row.fields), 200)
        except PermanentError as error:
            would = f"no key ({error})"
        raise UsageError(
            f"run {invoice.run} would have stored {printable(row.invoice_id)} as {printable(invoice.key, 200)}, and "
            f"{printable(keys.text, 200)} makes that {would}: give --key as that run had it, or the one that you mean"
        )


def _rows_of(root: Path, invoices: Sequence[Unresolved]) -> list[Row]:
    """The row of each of `invoices`, by manifest."""
    rows: list[Row] = []
    for run, group in groupby(sorted(invoices, key=lambda each: (each.run, each.offset)), lambda each: each.run):
        path = root / MANIFESTS / f"{run}.jsonl"
        with disk_errors(f"read the manifest {path}"), path.open("rb") as manifest:
            for invoice in group:
                manifest.seek(invoice.offset)
                rows.append(_row_of(invoice, manifest.readline()))
    return rows


def _row_of(invoice: Unresolved, line: bytes) -> Row:
    try:
        row = decode_row(line)
    except ValueError:
        row = None
    if row is None or row.invoice_id != invoice.invoice_id:
        raise DamagedManifest(
            f"the manifest of run {invoice.run} is not as the ledger has read it: see that it is whole"
        )
    return row
