"""`bulkfetch run`, composed: opens everything in order, heeds signals, drains, and closes with the summary."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import anyio

from bulkfetch.app.open_archive import open_archive, utc_now
from bulkfetch.app.open_input import Input, open_input
from bulkfetch.app.open_origins import Connections, connect, token_source
from bulkfetch.app.open_pipeline import open_pipeline
from bulkfetch.app.summary import run_result
from bulkfetch.app.verdict import Interrupted, find_shortfall, verdict_on
from bulkfetch.config import Config
from bulkfetch.errors import FatalError
from bulkfetch.events import Event, Listener, RunFinished, RunStarted
from bulkfetch.interfaces import Manifest, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Secret, Summary
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.stop import Stop
from bulkfetch.retrying import RetryPolicy
from bulkfetch.service.health import Health, supervised


def run_archive(
    config: Config, *, source: str, environ_token: Secret | None, listeners: Sequence[Listener] = ()
) -> Summary:
    """Archive what `source` names, and say in the summary how it went; its `exit_code` is the process's.

    Raises:
        UsageError: source, key template, token or destination cannot be used; nothing was begun.
        FatalError: the archive cannot be opened or its manifest written.
    """
    return anyio.run(archive, config, source, environ_token, listeners)


async def archive(config: Config, source: str, environ_token: Secret | None, listeners: Sequence[Listener]) -> Summary:
    """The same on a running event loop, in its main thread."""
    health = Health()
    told = (*listeners, health)

    def notify(event: Event) -> None:
        for listener in told:
            listener(event)

    async with (
        supervised(health, config.service.health_addr, os.environ),
        open_input(config, source, notify=notify) as given,
    ):
        keys = KeyTemplate.parse(config.destination.key)
        token = token_source(config, environ_token, notify)
        await token.current()
        return await _archive(config, given, keys, token, health, notify)


async def _archive(
    config: Config,
    given: Input,
    keys: KeyTemplate,
    token: TokenSource,
    health: Health,
    notify: Callable[[Event], None],
) -> Summary:
    rng, stop = Random(), Stop()
    async with (
        open_archive(config, rng=rng, notify=notify, shared=given.queue is not None) as (manifest, store),
        connect(config, token, rng=rng, notify=notify, queue=given.queue) as connections,
        _heeding_signals(stop) as tasks,
    ):
        pool = open_pipeline(
            manifest.run,
            source=given.source,
            manifest=manifest,
            history=manifest.history,
            store=store,
            fetcher=_fetcher(config, connections, store, rng=rng, stop=stop, notify=notify),
            keys=keys,
            stop=stop,
            notify=notify,
            utc_now=utc_now,
            workers=config.limits.workers,
            drain=config.timeouts.drain,
            max_failed_ratio=config.limits.max_failed_ratio,
            adopting=manifest.adopting,
        )
        tasks.start_soon(_tell_of_stop, stop, health)
        began, started = utc_now(), anyio.current_time()
        notify(RunStarted(manifest.run, given.source.name, store.name, given.source.estimate()))
        await pool.run()
        tasks.start_soon(_stop_waiting, manifest, stop, config.timeouts.drain)
        try:
            shortfall = None if stop.cause else await find_shortfall(config.source.expect, given, manifest, notify)
        except FatalError as error:
            # Of another run's manifest, or the broker's: this run still ends in order, with a summary that says so.
            stop.request(error)
            shortfall = None
        summary = await manifest.finish(
            run_result(
                pool.tally,
                given.source,
                connections,
                verdict=verdict_on(pool.tally, given.source, stop.cause, shortfall),
                destination=store.name,
                began=began,
                finished=utc_now(),
                seconds=anyio.current_time() - started,
            )
        )
        notify(RunFinished(summary))
        return summary


def _fetcher(
    config: Config,
    connections: Connections,
    store: Store,
    *,
    rng: Random,
    stop: Stop,
    notify: Callable[[Event], None],
) -> Fetcher:
    retry = config.retry
    return Fetcher(
        connections.minter,
        connections.downloader,
        store,
        policy=RetryPolicy(
            attempts=retry.attempts, wait_initial=retry.wait_initial, wait_max=retry.wait_max, timeout=retry.timeout
        ),
        rng=rng,
        stopping=stop.requested.is_set,
        notify=notify,
    )


@asynccontextmanager
async def _heeding_signals(stop: Stop) -> AsyncIterator[anyio.abc.TaskGroup]:
    """Until the block ends a signal asks for a stop, and a second one for haste. What the block raises goes through."""
    async with _by_its_type(), anyio.create_task_group() as tasks:
        await tasks.start(_heed_signals, stop)
        yield tasks
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _by_its_type() -> AsyncIterator[None]:
    """Raise what the block raises, and no group of it: callers know an end by its type, and task groups wrap it."""
    try:
        yield
    except ExceptionGroup as failed:
        error: Exception = failed
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _stop_waiting(manifest: Manifest, stop: Stop, drain: float) -> None:
    """What the pool does while it runs, for the summary: a bucket in trouble gets no more time than work in hand."""
    await stop.requested.wait()
    with anyio.move_on_after(drain):
        await stop.forced.wait()
    manifest.stop_waiting()


async def _heed_signals(stop: Stop, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for signum in signals:
            if stop.requested.is_set():
                stop.force()
            stop.request(Interrupted(signum))


async def _tell_of_stop(stop: Stop, health: Health) -> None:
    await stop.requested.wait()
    health.stopping()
