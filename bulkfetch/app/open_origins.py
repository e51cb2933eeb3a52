"""Opens the two origins of a run, the billing API and the download host; `check` needs them as well."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

from yarl import URL

from bulkfetch.config import Config
from bulkfetch.events import Listener, Note, Origin
from bulkfetch.interfaces import Queue
from bulkfetch.links.body import BodyLimits
from bulkfetch.links.downloader import HttpDownloader
from bulkfetch.links.minter import ApiMinter
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Secret
from bulkfetch.net.addresses import is_local, refuse_in_the_clear
from bulkfetch.net.doubts import Doubts
from bulkfetch.net.gate import Gate
from bulkfetch.net.link_rules import LinkRules
from bulkfetch.net.sessions import download_session, json_session, last_look


@dataclass(frozen=True, slots=True)
class Origins:
    """The two origins, each behind its gate."""

    minter: ApiMinter
    downloader: HttpDownloader
    api_gate: Gate
    download_gate: Gate
    doubts: Doubts
    last_look: Callable[[], Awaitable[None]]
    """Closes every kept connection; on return `doubts` is complete."""


@asynccontextmanager
async def open_origins(
    config: Config,
    token: TokenSource,
    *,
    rng: Random,
    notify: Listener,
    queue: Queue | None = None,
) -> AsyncIterator[Origins]:
    """The clients of API and download host, each behind its gate; nothing is sent to them yet.

    All workers of `queue` share one rate, if the queue's engine offers that.

    Raises:
        UsageError: the token would travel over plain HTTP to a public host.
        FatalError: the API's host name does not resolve.
    """
    await refuse_in_the_clear(config.api.url, label="api.url", exposed="the token")
    url = URL(config.api.url)
    # Links may lead to local addresses, and in the clear, only where the API itself does.
    local, plain = await is_local(url.host or "", label="api.url"), url.scheme == "http"
    rules = LinkRules(hosts=config.api.link_hosts, allow_local=local, allow_http=plain)
    limits, timeouts = config.limits, config.timeouts
    gate = partial(Gate, ceiling=limits.workers, max_outage=limits.max_outage, rng=rng, notify=notify)
    download_gate, doubts = gate(Origin.DOWNLOAD_HOST), Doubts()
    async with (
        _api_gate(gate, config, queue) as api_gate,
        json_session(connections=limits.workers, doubts=doubts) as api,
        download_session(connections=limits.workers, rules=rules, doubts=doubts) as links,
    ):
        minter = ApiMinter(
            api,
            token,
            api_gate,
            base_url=config.api.url,
            link_seconds=config.api.link_seconds,
            connect_timeout=timeouts.connect,
            timeout=timeouts.connect + timeouts.first_byte,
        )
        yield Origins(
            minter,
            HttpDownloader(
                links,
                download_gate,
                mint=minter.mint,
                rules=rules,
                limits=BodyLimits(
                    max_size=limits.max_size,
                    connect=timeouts.connect,
                    first_byte=timeouts.first_byte,
                    idle=timeouts.idle,
                    total=timeouts.total,
                    min_speed=timeouts.min_speed,
                ),
            ),
            api_gate,
            download_gate,
            doubts,
            partial(last_look, api, links),
        )


@asynccontextmanager
async def _api_gate(gate: Callable[..., Gate], config: Config, queue: Queue | None) -> AsyncIterator[Gate]:
    if queue is None:
        yield gate(Origin.API, rate=config.api.rate)
        return
    api_gate = gate(Origin.API)
    # Workers that ask the same API for links are one client to it.
    name = hashlib.sha256(config.api.url.encode()).hexdigest()[:16]
    async with queue.shared_rate(
        name, rate=config.api.rate, patience=config.limits.max_outage, on_pause=api_gate.pause
    ) as shared_rate:
        if shared_rate is not None:
            api_gate.join(shared_rate)
        yield api_gate if shared_rate is not None else gate(Origin.API, rate=config.api.rate)


def token_source(config: Config, value: Secret | None, notify: Listener) -> TokenSource:
    """The source of the token: `value`, where one is given, else what `config` names.

    Raises:
        UsageError: none is configured.
    """
    return TokenSource(
        value=value,
        file=config.api.token_file,
        command=config.api.token_command,
        warn=lambda message: notify(Note("warning", message)),
    )
