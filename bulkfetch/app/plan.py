"""`bulkfetch plan`: what a run would do. Calls nothing, changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio

from bulkfetch.app.open_archive import is_bucket
from bulkfetch.app.open_input import open_rows
from bulkfetch.app.outside import with_way_out
from bulkfetch.app.planned_names import PlannedNames
from bulkfetch.app.sorted_input import InputCounts, open_triage
from bulkfetch.config import Config
from bulkfetch.events import Listener
from bulkfetch.pipeline.triage import Sorted


@dataclass(frozen=True, slots=True)
class PlannedKey:
    """The key that an invoice would get. `note` says in words what has its plain name, where something has."""

    line: int | None
    invoice_id: str
    key: str
    note: str | None


@dataclass(slots=True, kw_only=True)
class Plan(InputCounts):
    """What would become of an input's rows, in numbers. `seconds_at_rate` is the least time that api.rate allows; None
    where no rate is set.

    `to_adopt` are in the archive already, without a row. `names_taken` counts those of the new invoices that would get
    a key with a digest because another invoice has their plain name, `moved` the stored ones that would get another key
    today. `keys` are the keys of the first few new invoices.
    """

    to_fetch: int = 0
    to_adopt: int = 0
    names_taken: int = 0
    moved: int = 0
    keys: list[PlannedKey] = field(default_factory=list)
    seconds_at_rate: float | None = None


def plan_archive(
    config: Config,
    *,
    source: str,
    environ: Mapping[str, str],
    show_keys: int = 0,
    progress: Callable[[int, int | None], None] = lambda read, total: None,  # noqa: ARG005 - nobody watches
    notify: Listener = lambda event: None,  # noqa: ARG005 - as above
) -> Plan:
    """What `run` would do with `source`, were it started now. `environ` holds the credentials for a bucket.

    An object in a directory that has gone missing is fetched anew, as by a run. Of a bucket only the manifests are
    read: see `Plan.manifests_only`.

    Args:
        show_keys: of how many new invoices the keys are wanted.
        progress: told now and then how many rows were read, and how many there are thought to be (None: unknown).
        notify: told what a person should know of how the input is read.

    Raises:
        UsageError: source, key template or destination cannot be used.
        FatalError: a manifest is damaged.
    """
    return anyio.run(_plan, config, source, with_way_out(environ, config.api), show_keys, progress, notify)


async def _plan(
    config: Config,
    source: str,
    environ: Mapping[str, str],
    show_keys: int,
    progress: Callable[[int, int | None], None],
    notify: Listener,
) -> Plan:
    rows = await open_rows(config, source, notify)
    plan = Plan(manifests_only=is_bucket(config.destination.url))
    async with open_triage(config.destination, environ, date_format=config.source.date_format) as (triage, names):
        async for batch in rows.batches():
            sorted_ = await triage.sort(batch)
            plan.add(sorted_)
            await _add_new(plan, sorted_, names, show_keys)
            progress(plan.read, rows.estimate())
    plan.end(rows, config.source)
    if config.api.rate:
        plan.seconds_at_rate = plan.to_fetch / config.api.rate
    return plan


async def _add_new(plan: Plan, rows: Sorted, names: PlannedNames, show_keys: int) -> None:
    """Count what a run would fetch or adopt of `rows`, and note the keys of the first ones."""
    adopted = sum(adopt for _, _, adopt in rows.to_fetch)
    plan.to_adopt += adopted
    plan.to_fetch += len(rows.to_fetch) - adopted
    plan.moved += len(rows.moved)
    taken = await names.taken(rows.to_fetch)
    plan.names_taken += len(taken)
    for index, (row, key, _) in enumerate(rows.to_fetch[: max(0, show_keys - len(plan.keys))]):
        note = taken.get(index)
        plan.keys.append(PlannedKey(row.line, row.invoice_id, names.alternative(row) if note else key, note))
