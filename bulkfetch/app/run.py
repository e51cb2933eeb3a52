"""`bulkfetch run`, composed: opens everything in order, runs the pipeline, and closes with the summary.

Nothing here belongs to a process of its own: signals, limits, the environment and a supervisor are the command line's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from random import Random

import anyio

from bulkfetch.app.open_archive import open_archive, utc_now
from bulkfetch.app.open_input import Input, open_input
from bulkfetch.app.open_origins import Origins, open_origins, token_source
from bulkfetch.app.open_pipeline import open_pipeline
from bulkfetch.app.summary import run_result
from bulkfetch.app.time_limits import stop_in_time
from bulkfetch.app.verdict import find_shortfall, verdict_on
from bulkfetch.config import Config
from bulkfetch.errors import FatalError
from bulkfetch.events import Event, Listener, RunFinished, RunStarted, RunStopping
from bulkfetch.interfaces import Manifest, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Secret, Summary
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.stop import Stop
from bulkfetch.retrying import RetryPolicy
from bulkfetch.tasks import running

NO_VARIABLES: Mapping[str, str] = {}


async def archive(
    config: Config,
    source: str,
    *,
    token: Secret | None = None,
    environ: Mapping[str, str] = NO_VARIABLES,
    stop: Stop | None = None,
    listeners: Sequence[Listener] = (),
) -> Summary:
    """Archive what `source` names, and say in the summary how that went.

    It runs on the asyncio event loop of any thread. It takes no signal handler and changes no limit of the process.
    Several may run in one process, each into an archive of its own. Each needs about 3 * workers + 320 open files.

    Args:
        token: the API's token; None takes the one that `config` names.
        environ: variables with the credentials for a bucket or a queue (AWS_..., NATS_...), and with the place for a
            bucket's local copy (XDG_CACHE_HOME, HOME). For credentials that are not there the clients of S3, GCS, Azure
            and SQS look by themselves, in the process's own environment.
        stop: ends the run early and in order. A cancellation is quicker: what is stored has its row, but the run has no
            summary, and the next one looks for what is left of it.
        listeners: hear every event.

    Raises:
        UsageError: source, key template, token or destination cannot be used; nothing was begun.
        FatalError: the archive cannot be opened or its manifest written.
    """

    def notify(event: Event) -> None:
        for listener in listeners:
            listener(event)

    entered = anyio.current_time()
    async with open_input(config, source, environ=environ, notify=notify) as opened:
        keys = KeyTemplate.parse(config.destination.key, config.source.date_format)
        tokens = token_source(config, token, notify)
        await tokens.current()
        return await _archive(config, opened, keys, tokens, environ, stop or Stop(), notify, entered)


async def _archive(
    config: Config,
    opened: Input,
    keys: KeyTemplate,
    tokens: TokenSource,
    environ: Mapping[str, str],
    stop: Stop,
    notify: Listener,
    entered: float,
) -> Summary:
    rng = Random()
    shared = opened.queue is not None or config.destination.share
    async with (
        open_archive(config, environ, rng=rng, notify=notify, shared=shared) as (manifest, store),
        open_origins(config, tokens, rng=rng, notify=notify, queue=opened.queue) as origins,
        running(partial(_tell_of_stop, stop, notify), partial(stop_in_time, config.limits, stop, began=entered)),
    ):
        pool = open_pipeline(
            manifest.run,
            source=opened.source,
            manifest=manifest,
            history=manifest.history,
            store=store,
            fetcher=_fetcher(config, origins, store, rng=rng, stop=stop, notify=notify),
            keys=keys,
            stop=stop,
            notify=notify,
            utc_now=utc_now,
            workers=config.limits.workers,
            drain=config.timeouts.drain,
            max_failed_ratio=config.limits.max_failed_ratio,
            adopting=manifest.adopting,
            doubts=origins.doubts,
            last_look=origins.last_look,
            shared=shared,
            limit=config.source.limit,
            wait_max=config.retry.wait_max,
        )
        origins.doubts.ids.update(manifest.doubted)
        origins.doubts.told = manifest.note_doubts
        began, started = utc_now(), anyio.current_time()
        notify(RunStarted(manifest.run, opened.source.name, store.name, opened.source.estimate(), manifest.rows))
        await pool.run()
        async with running(partial(_bound_the_end, manifest, stop, config.timeouts.drain)):
            try:
                shortfall = None if stop.cause else await find_shortfall(config.source, opened, manifest, notify)
            except FatalError as error:
                # Another run's manifest or the broker failed: this run still ends in order, and its summary says so.
                stop.request(error)
                shortfall = None
            summary = await manifest.finish(
                await run_result(
                    pool.tally,
                    opened.source,
                    origins,
                    verdict=verdict_on(pool.tally, opened.source, stop.cause, shortfall),
                    destination=store.name,
                    began=began,
                    ended=utc_now(),
                    seconds=anyio.current_time() - started,
                )
            )
        notify(RunFinished(summary))
        return summary


def _fetcher(
    config: Config,
    origins: Origins,
    store: Store,
    *,
    rng: Random,
    stop: Stop,
    notify: Listener,
) -> Fetcher:
    retry = config.retry
    return Fetcher(
        origins.minter,
        origins.downloader,
        store,
        policy=RetryPolicy(
            attempts=retry.attempts, wait_initial=retry.wait_initial, wait_max=retry.wait_max, timeout=retry.timeout
        ),
        rng=rng,
        stopping=stop.requested.is_set,
        notify=notify,
    )


async def _tell_of_stop(stop: Stop, notify: Listener) -> None:
    await stop.requested.wait()
    notify(RunStopping(str(stop.cause)))


async def _bound_the_end(manifest: Manifest, stop: Stop, drain: float) -> None:
    """Give a bucket in trouble no more time to take the summary than invoices in hand get after a stop."""
    await stop.requested.wait()
    with anyio.move_on_after(drain):
        await stop.forced.wait()
    manifest.stop_waiting()
