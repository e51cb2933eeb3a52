"""`bulkfetch plan`: what a run would do. Calls nothing, changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio

from bulkfetch.app.open_archive import is_bucket
from bulkfetch.app.open_input import open_rows
from bulkfetch.app.sorted_input import InputCounts, open_triage
from bulkfetch.config import Config
from bulkfetch.events import Listener


@dataclass(slots=True, kw_only=True)
class Plan(InputCounts):
    """What would become of an input's rows, in numbers. `seconds_at_rate` is the least time that api.rate allows; None
    where no rate is set."""

    to_fetch: int = 0
    seconds_at_rate: float | None = None


def plan_archive(
    config: Config,
    *,
    source: str,
    environ: Mapping[str, str],
    progress: Callable[[int, int | None], None] = lambda read, total: None,  # noqa: ARG005 - nobody watches
    notify: Listener = lambda event: None,  # noqa: ARG005 - as above
) -> Plan:
    """What `run` would do with `source`, were it started now. `environ` holds the credentials for a bucket.

    An object in a directory that has gone missing is fetched anew, as by a run. Of a bucket only the manifests are
    read: see `Plan.manifests_only`.

    Args:
        progress: told now and then how many rows were read, and how many there are thought to be (None: unknown).
        notify: told what a person should know of how the input is read.

    Raises:
        UsageError: source, key template or destination cannot be used.
        FatalError: a manifest is damaged.
    """
    return anyio.run(_plan, config, source, environ, progress, notify)


async def _plan(
    config: Config,
    source: str,
    environ: Mapping[str, str],
    progress: Callable[[int, int | None], None],
    notify: Listener,
) -> Plan:
    rows = await open_rows(config, source, notify)
    plan = Plan(manifests_only=is_bucket(config.destination.url))
    async with open_triage(config.destination, environ, date_format=config.source.date_format) as triage:
        async for batch in rows.batches():
            sorted_ = await triage.sort(batch)
            plan.add(sorted_)
            plan.to_fetch += len(sorted_.to_fetch)
            progress(plan.read, rows.estimate())
    plan.end(rows, config.source)
    if config.api.rate:
        plan.seconds_at_rate = plan.to_fetch / config.api.rate
    return plan
