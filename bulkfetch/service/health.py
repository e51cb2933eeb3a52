"""The health of a run, for its supervisors: an orchestrator asks for it, a service manager is told."""

from collections import Counter
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from functools import partial

import anyio

from bulkfetch.events import Event, Origin, OriginDown, OriginUp, RowsRecorded, RunFinished, RunStarted, RunStopping
from bulkfetch.models import Outcome
from bulkfetch.service.sd_notify import Notifier
from bulkfetch.tasks import running

STATUS_EVERY = 5.0
"""Seconds between two status lines, while the counts change."""


class State(StrEnum):
    """Why a run is not ready, in one word; or that it is."""

    STARTING = "starting"
    READY = "ready"
    QUEUE = "queue"
    STOPPING = "stopping"


class Health:
    """Follows a run by its events. A run that has begun to stop never becomes ready again."""

    def __init__(self) -> None:
        self.started = False
        self._state = State.STARTING
        self._rows: Counter[Outcome] = Counter()
        self._changed = anyio.Event()

    def __call__(self, event: Event) -> None:
        """Take note of `event`."""
        match event:
            case RowsRecorded(rows=rows):
                self._rows.update(row.outcome for row in rows)
            case RunStarted():
                self.started = True
                self._turn(State.READY)
            case OriginDown(origin=origin) if origin == Origin.QUEUE and self._state is State.READY:
                self._turn(State.QUEUE)
            case OriginUp(origin=origin) if origin == Origin.QUEUE and self._state is State.QUEUE:
                self._turn(State.READY)
            case RunStopping() | RunFinished():
                self.stopping()
            case _:
                pass

    def stopping(self) -> None:
        """The run takes no more work, and ends when what is in hand is finished."""
        self._turn(State.STOPPING)

    def _turn(self, state: State) -> None:
        if self._state not in (state, State.STOPPING):
            self._state = state
            self._changed.set()
            self._changed = anyio.Event()

    @property
    def state(self) -> State:
        """Where the run is now."""
        return self._state

    def why_not_ready(self) -> str | None:
        """One word; None if it is ready."""
        return None if self._state is State.READY else str(self._state)

    def status(self) -> str:
        """The state and the numbers of rows, in one line."""
        state = "queue out of reach" if self._state is State.QUEUE else str(self._state)
        return ", ".join([state, *(f"{self._rows[outcome]} {outcome}" for outcome in Outcome if self._rows[outcome])])

    async def changed(self) -> None:
        """Wait until the state is another one."""
        await self._changed.wait()


@asynccontextmanager
async def supervised(health: Health, addr: str, environ: MutableMapping[str, str]) -> AsyncIterator[None]:
    """Let supervisors know of `health` until the block ends.

    `addr`, host:port, is where requests are answered; "" is nowhere. The service manager that `environ` names is told
    of each change; the variables that name it are removed from `environ`.

    Raises:
        UsageError: the address cannot be bound.
    """
    async with AsyncExitStack() as stack:
        if notifier := Notifier.of(environ):
            await stack.enter_async_context(_reporting(health, stack.enter_context(notifier)))
        if addr:
            # aiohttp's server is not needed for anything else in a run, and slow to import.
            from bulkfetch.service.endpoint import endpoint

            await stack.enter_async_context(endpoint(addr, health.why_not_ready))
        try:
            yield
        finally:
            health.stopping()


@asynccontextmanager
async def _reporting(health: Health, notifier: Notifier) -> AsyncIterator[None]:
    report = _Report(health, notifier)
    live = [partial(_live, notifier, notifier.watchdog / 2)] if notifier.watchdog is not None else []
    async with running(report.keep_up, *live):
        try:
            yield
        finally:
            report.catch_up()


class _Report:
    """Tells a service manager what is new. What the manager did not take is told again."""

    def __init__(self, health: Health, notifier: Notifier) -> None:
        self._health = health
        self._notifier = notifier
        self._told: Sequence[str] = ()

    async def keep_up(self) -> None:
        while True:
            self.catch_up()
            with anyio.move_on_after(STATUS_EVERY):
                await self._health.changed()

    def catch_up(self) -> None:
        lines = self._lines()
        news = [line for line in lines if line not in self._told]
        if news and self._notifier.tell(*news):
            self._told = lines

    def _lines(self) -> Sequence[str]:
        # A manager that was never told of the start takes even the quickest run for a failed one.
        ready = ["READY=1"] if self._health.started else []
        stopping = ["STOPPING=1"] if self._health.state is State.STOPPING else []
        return [*ready, *stopping, f"STATUS={self._health.status()}"]


async def _live(notifier: Notifier, every: float) -> None:
    """Say every so many seconds that the event loop turns. A process that hangs is silent."""
    while True:
        notifier.tell("WATCHDOG=1")
        await anyio.sleep(every)
