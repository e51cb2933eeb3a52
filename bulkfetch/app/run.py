"""`bulkfetch run`, composed: opens everything in order, heeds signals, drains, and closes with the summary."""

import os
import platform
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.metadata import version
from random import Random

import anyio

from bulkfetch import __version__
from bulkfetch.app.descriptors import reserve_descriptors
from bulkfetch.app.open_archive import open_archive, utc_now
from bulkfetch.app.open_input import Input, open_input
from bulkfetch.app.open_origins import Connections, connect, token_source
from bulkfetch.app.verdict import Interrupted, find_shortfall, verdict_on
from bulkfetch.config import Config
from bulkfetch.errors import ExitCode, FatalError
from bulkfetch.events import Event, Listener, RunFinished, RunStarted
from bulkfetch.interfaces import Manifest, Source, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Secret, Summary, utc_iso
from bulkfetch.pipeline.adoption import Adoption
from bulkfetch.pipeline.canary import Canary
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.pool import Pool
from bulkfetch.pipeline.recorder import Recorder
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.second_pass import AtTheEnd, BackToTheQueue
from bulkfetch.pipeline.stop import Stop
from bulkfetch.pipeline.tally import Tally
from bulkfetch.pipeline.triage import Looks, Triage
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

    reserve_descriptors(config.limits.workers)
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
        capabilities = given.source.capabilities
        in_hand, canary = (
            InHand(),
            Canary(max_failed_ratio=config.limits.max_failed_ratio, others_may_take=capabilities.shared),
        )
        rows = RowWriter(manifest.run, utc_now, store.uri)
        recorder = Recorder(
            source=given.source, manifest=manifest, canary=canary, stop=stop, notify=notify, in_hand=in_hand
        )
        pool = Pool(
            source=given.source,
            triage=Triage(
                history=manifest,
                keys=keys,
                repeats=capabilities.repeats,
                looks=Looks(
                    head=store.head,
                    stored=store.cheap_head,
                    unrecorded=manifest.adopting or (capabilities.shared and store.cheap_head),
                ),
            ),
            fetcher=_fetcher(config, connections, store, rng=rng, stop=stop, notify=notify),
            adoption=Adoption(store=store, history=manifest, rows=rows, keys=keys, shared=capabilities.shared),
            rows=rows,
            recorder=recorder,
            second_pass=(
                BackToTheQueue(given.source, lambda: recorder.tally.answered)
                if capabilities.comes_again
                else AtTheEnd()
            ),
            canary=canary,
            in_hand=in_hand,
            stop=stop,
            notify=notify,
            utc_now=utc_now,
            workers=config.limits.workers,
            drain=config.timeouts.drain,
        )
        tasks.start_soon(_tell_of_stop, stop, health)
        began, started = utc_now(), anyio.current_time()
        notify(RunStarted(manifest.run, given.source.name, store.name, given.source.estimate()))
        await pool.run()
        tasks.start_soon(_hurry, manifest, stop, config.timeouts.drain)
        try:
            shortfall = None if stop.cause else await find_shortfall(config.source.expect, given, manifest, notify)
        except FatalError as error:
            # Of another run's manifest, or the broker's: this run still ends in order, with a summary that says so.
            stop.request(error)
            shortfall = None
        summary = await manifest.finish(
            _summary(
                manifest.run,
                recorder.tally,
                given.source,
                connections,
                verdict=verdict_on(recorder.tally, given.source, stop.cause, shortfall),
                destination=store.name,
                began=began,
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


async def _hurry(manifest: Manifest, stop: Stop, drain: float) -> None:
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


def _summary(
    run: str,
    tally: Tally,
    source: Source,
    connections: Connections,
    *,
    verdict: tuple[ExitCode, str | None],
    destination: str,
    began: datetime,
    seconds: float,
) -> Summary:
    exit_code, stopped_by = verdict
    digest = source.digest()
    api, links = connections.api_gate, connections.download_gate
    return Summary(
        run=run,
        exit_code=exit_code,
        complete=exit_code in (ExitCode.COMPLETE, ExitCode.FAILED, ExitCode.FAILED_RETRYABLE),
        stopped_by=stopped_by,
        started_at=utc_iso(began),
        finished_at=utc_iso(utc_now()),
        seconds=round(seconds, 3),
        counts=tally.counts(source),
        reasons=dict(tally.reasons),
        bytes_stored=tally.bytes_stored,
        requests={
            "links": api.requests.sent,
            "links_refused": api.requests.refused,
            "downloads": links.requests.sent,
            "downloads_refused": links.requests.refused,
        },
        source=source.name,
        input_sha256=digest[0] if digest else None,
        input_bytes=digest[1] if digest else None,
        destination=destination,
        versions={
            "bulkfetch": __version__,
            "python": platform.python_version(),
            "aiohttp": version("aiohttp"),
        },
        manifest="",
        manifest_rows=0,
        manifest_sha256="",
        previous=None,
        previous_sha256=None,
    )
