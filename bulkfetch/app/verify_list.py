"""Proves that a list is archived: each of its invoices is stored, and its object is what the manifests say."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from anyio import to_thread

from bulkfetch.app.open_input import open_rows
from bulkfetch.app.verify_findings import Finding, Kind
from bulkfetch.app.verify_objects import Checker
from bulkfetch.config import Config
from bulkfetch.events import Listener
from bulkfetch.interfaces import Source
from bulkfetch.manifest.duplicates import SeenIds
from bulkfetch.manifest.states import InvoiceStates, Unstored
from bulkfetch.models import Delivery, InputRow, Malformed


async def check_list(
    config: Config, source: str, states: InvoiceStates, checker: Checker, seen: Path, notify: Listener
) -> int:
    """Check each invoice that `source` names, once; how many of them are accepted as gaps. `seen` is a free name for a
    scratch file.

    Raises:
        UsageError: the list cannot be read as what it claims to be.
    """
    rows: Source = await open_rows(config, source, notify)
    accepted = 0
    met = await to_thread.run_sync(SeenIds, seen)
    with closing(met):
        async for batch in rows.batches():
            accepted += await _check(batch, states, checker, met)
    return accepted


async def _check(batch: Sequence[InputRow], states: InvoiceStates, checker: Checker, met: SeenIds) -> int:
    deliveries = [row for row in batch if isinstance(row, Delivery)]
    repeats = await to_thread.run_sync(met.find_repeats, [(row.invoice_id, row.line) for row in deliveries])
    new = {row.invoice_id: row for index, row in enumerate(deliveries) if index not in repeats}
    stored = await to_thread.run_sync(states.find, new)
    others = await to_thread.run_sync(states.others, [each for each in new if each not in stored])
    unusable = [
        Finding(finding=Kind.NOT_STORED, key="", invoice_id=row.raw, line=row.line, message=row.message)
        for row in batch
        if isinstance(row, Malformed)
    ]
    gaps = {each.invoice_id for each in others.values() if each.accepted is not None}
    lacking = [
        _not_stored(row, others.get(row.invoice_id))
        for row in new.values()
        if row.invoice_id not in stored and row.invoice_id not in gaps
    ]
    checker.progress.total_objects += len(stored)
    await checker.add([*unusable, *lacking])
    await checker.check([*stored.values()])
    return len(gaps)


def _not_stored(row: Delivery, known: Unstored | None) -> Finding:
    message = "no run has seen it"
    if known is not None:
        message = f"{known.state}: {known.reason}" if known.reason else known.state
    return Finding(finding=Kind.NOT_STORED, key="", invoice_id=row.invoice_id, line=row.line, message=message)
