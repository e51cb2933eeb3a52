"""`bulkfetch plan`: what a run would do. Calls nothing, changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from bulkfetch.app.open_archive import readable_manifests
from bulkfetch.app.open_input import open_rows
from bulkfetch.config import Config
from bulkfetch.errors import PermanentError
from bulkfetch.keys import KeyTemplate
from bulkfetch.manifest import LedgerIndex
from bulkfetch.manifest.duplicates import SeenIds
from bulkfetch.models import Delivery, Malformed

SHOWN_PROBLEMS = 10


@dataclass(slots=True)
class Plan:
    """What would become of an input's rows, in numbers.

    `problems` are line and problem of the first few rows that would be rejected. `seconds_at_rate` is the least time
    that api.rate allows; None where no rate is set.
    """

    read: int = 0
    to_fetch: int = 0
    already_stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    problems: list[tuple[int | None, str]] = field(default_factory=list)
    seconds_at_rate: float | None = None


def plan_archive(config: Config, *, source: str, environ: Mapping[str, str]) -> Plan:
    """What `run` would do with `source`, were it started now. `environ` holds the credentials for a bucket. An object
    that has gone missing is not looked for.

    Raises:
        UsageError: source, key template or destination cannot be used.
        FatalError: a manifest is damaged.
    """
    return anyio.run(_plan, config, source, environ)


async def _plan(config: Config, source: str, environ: Mapping[str, str]) -> Plan:
    rows = await open_rows(config, source)
    keys = KeyTemplate.parse(config.destination.key, config.source.date_format)
    plan = Plan()
    with TemporaryDirectory(prefix="bulkfetch-plan-") as scratch:
        root = await readable_manifests(config.destination, Path(scratch), environ)
        ledger = await anyio.to_thread.run_sync(LedgerIndex.snapshot, root)
        seen = await anyio.to_thread.run_sync(SeenIds, Path(scratch) / "seen")
        try:
            async for batch in rows.batches():
                await _count(plan, batch, keys, ledger, seen)
        finally:
            await anyio.to_thread.run_sync(seen.close)
            await anyio.to_thread.run_sync(ledger.close)
    if config.api.rate:
        plan.seconds_at_rate = plan.to_fetch / config.api.rate
    return plan


async def _count(
    plan: Plan, batch: Sequence[Delivery | Malformed], keys: KeyTemplate, ledger: LedgerIndex, seen: SeenIds
) -> None:
    deliveries = [row for row in batch if isinstance(row, Delivery)]
    repeats = await anyio.to_thread.run_sync(seen.find_repeats, [(row.invoice_id, row.line) for row in deliveries])
    stored = await anyio.to_thread.run_sync(ledger.stored, [row.invoice_id for row in deliveries])
    problems = [(row.line, row.message) for row in batch if isinstance(row, Malformed)]
    for index, row in enumerate(deliveries):
        if index in repeats:
            plan.duplicates += 1
        elif row.invoice_id in stored:
            plan.already_stored += 1
        else:
            try:
                keys.key_for(row.invoice_id, row.fields)
                plan.to_fetch += 1
            except PermanentError as error:
                problems.append((row.line, str(error)))
    plan.read += len(batch)
    plan.rejected += len(problems)
    plan.problems += problems[: SHOWN_PROBLEMS - len(plan.problems)]
