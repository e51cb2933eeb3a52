"""`bulkfetch check`: is everything there that a run needs?"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import anyio

from bulkfetch.app.open_archive import open_store
from bulkfetch.app.open_origins import open_origins, token_source
from bulkfetch.config import Config
from bulkfetch.errors import BulkfetchError, PermanentError, Reason
from bulkfetch.events import Event, Note, Origin
from bulkfetch.keys import KeyTemplate
from bulkfetch.links.token import TokenSource
from bulkfetch.models import Secret
from bulkfetch.net.server_time import server_time
from bulkfetch.queues import open_queue

CLOCK_TOLERANCE = 60.0
BLOCK = 1 << 20
NOBODYS_INVOICE = "bulkfetch-check"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One finding: `ok` is None where a check does not apply."""

    name: str
    ok: bool | None
    detail: str


def check_setup(
    config: Config, *, token: Secret | None, environ: Mapping[str, str], probe: str | None, queue: str | None
) -> list[CheckResult]:
    """Make every check, in order, also after a check that failed.

    `token` goes before what `config` names. `environ` holds the credentials for bucket and queue. With `probe`, an
    invoice ID, a link is minted and its PDF read, verified and thrown away. Without it the API is asked for an invoice
    that nobody has: any answer but 401 and 403 shows that the API is there and takes the token.
    """
    return anyio.run(_check, config, token, environ, probe, queue)


async def _check(
    config: Config, value: Secret | None, environ: Mapping[str, str], probe: str | None, queue: str | None
) -> list[CheckResult]:
    results: list[CheckResult] = []

    async def make(name: str, check: Callable[[], Awaitable[str]]) -> bool:
        try:
            results.append(CheckResult(name, True, await check()))
        except BulkfetchError as error:
            results.append(CheckResult(name, False, str(error)))
        return results[-1].ok is True

    await make("key template", lambda: _key(config))
    token: list[TokenSource] = []
    has_token = await make("token", lambda: _token(config, value, token))
    await make("clock", lambda: _clock(config))
    if has_token:
        await make("api", lambda: _api(config, token[0], probe))
    else:
        results.append(CheckResult("api", None, "not asked: there is no token"))
    if config.destination.url:
        await make("destination", lambda: _destination(config, environ))
    else:
        results.append(CheckResult("destination", None, "none given: add --to DEST"))
    if queue:
        await make("queue", lambda: _queue(queue, environ))
    return results


async def _queue(url: str, environ: Mapping[str, str]) -> str:
    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            told.append(event.message)

    async with open_queue(url, environ, notify=listen) as queue:
        stats = await queue.stats()
        counts = f"{queue.name}: {stats.waiting:,} waiting, {stats.leased:,} in work, {stats.dead:,} dead letters"
        if stats.dead:
            told.append("a run is not complete while there are dead letters: bulkfetch queue dead names them")
        # A worker joins this as well: a right that is missing shows now, and not in the night.
        async with queue.shared_rate("check", rate=0.0, patience=1.0, on_pause=lambda seconds: None):  # noqa: ARG005
            pass
        return "; ".join([counts, *told])


async def _key(config: Config) -> str:
    KeyTemplate.parse(config.destination.key, config.source.date_format)
    return config.destination.key


async def _token(config: Config, value: Secret | None, found: list[TokenSource]) -> str:
    source = token_source(config, value, _ignore)
    await source.current()
    found.append(source)
    places = {"BULKFETCH_TOKEN": value, "api.token_command": config.api.token_command}
    return "from " + next((place for place, given in places.items() if given), "api.token_file")


async def _clock(config: Config) -> str:
    """The local clock beside the API's: an hour of difference breaks signed requests and every record."""
    theirs = await server_time(config.api.url, origin=Origin.API, answer_seconds=config.timeouts.first_byte)
    if theirs is None:
        return "the API does not say its time"
    apart = abs((datetime.now(UTC) - theirs).total_seconds())
    if apart > CLOCK_TOLERANCE:
        raise PermanentError(Reason.BAD_RESPONSE, f"{apart:.0f} s apart from the API's: set the clock")
    return f"within {CLOCK_TOLERANCE:.0f} s of the API's"


async def _api(config: Config, token: TokenSource, probe: str | None) -> str:
    async with open_origins(config, token, rng=Random(), notify=_ignore) as origins:
        started = time.monotonic()
        try:
            link = await origins.minter.mint(probe or NOBODYS_INVOICE)
        except PermanentError as error:
            if probe is not None or error.reason is Reason.FORBIDDEN:
                raise
            return f"answers in {time.monotonic() - started:.2f} s and takes the token ({error})"
        if probe is None:
            return f"answers in {time.monotonic() - started:.2f} s and takes the token"
        body = await origins.downloader.open(link)
        try:
            while await body.gather([], BLOCK):
                pass
        finally:
            body.close()
        return f"{probe}: a PDF of {body.size:,} bytes in {time.monotonic() - started:.2f} s"


async def _destination(config: Config, environ: Mapping[str, str]) -> str:
    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            told.append(event.message)

    with TemporaryDirectory(prefix="bulkfetch-check-") as scratch:
        async with open_store(config, environ, "check", Path(scratch), rng=Random(), notify=listen) as store:
            return "; ".join([f"{store.name} takes and keeps files", *told])


def _ignore(event: Event) -> None:
    """A check reports once, at its end."""
