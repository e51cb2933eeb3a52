"""A run as a process of its own: signals stop it, and a supervisor hears of it."""

import asyncio
import signal
from collections.abc import Awaitable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from bulkfetch.config import Config
from bulkfetch.errors import ExitCode
from bulkfetch.events import Event, Listener, RunFinished, RunStarted
from bulkfetch.pipeline.stop import Interrupted, Stop
from bulkfetch.service.health import Health, supervised

T = TypeVar("T", covariant=True)

_SIGNALS = {signal.SIGINT: ExitCode.SIGINT, signal.SIGTERM: ExitCode.SIGTERM, signal.SIGHUP: ExitCode.SIGTERM}
"""What ends a run, and the exit code for it: a terminal that is closed (SIGHUP) asks for what SIGTERM does."""


class Job(Protocol[T]):
    """A run that tells `listeners` of everything."""

    def __call__(self, *, listeners: Sequence[Listener]) -> Awaitable[T]:
        """Make the run."""
        ...


async def run_supervised(
    config: Config,
    job: Job[T],
    *,
    environ: MutableMapping[str, str],
    stop: Stop,
    listeners: Sequence[Listener],
) -> T:
    """What `job` returns, a run that heeds `stop`, on the main thread's event loop.

    SIGINT, SIGTERM and SIGHUP request `stop`. The service manager that `environ` names is kept informed, and whoever
    asks at `service.health_addr`. `environ` loses the variables that name the service manager.

    Raises:
        UsageError, FatalError: as `job`; also if `service.health_addr` cannot be bound.
    """
    health = Health()
    async with supervised(health, config.service.health_addr, environ):
        with stopping_on_signals(stop) as heeding:
            return await job(listeners=[heeding, *listeners, health])


@contextmanager
def stopping_on_signals(stop: Stop) -> Iterator[Listener]:
    """A listener that lets SIGINT, SIGTERM and SIGHUP request `stop` while a run is at work; a second one forces it.

    Before the run has started there is nothing to bring to an end in order: there, the signals do what they do to any
    program. A run that has its summary only closes: the first signal then changes nothing, and the next one ends the
    process. SIGHUP stays ignored where it is: nohup has seen to that.
    """
    loop = asyncio.get_running_loop()
    finished = False
    ours = [signum for signum in _SIGNALS if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN]

    def heed(signum: signal.Signals) -> None:
        if finished:
            leave()
        if stop.requested.is_set():
            stop.force()
        stop.request(Interrupted(f"interrupted by {signum.name}", _SIGNALS[signum]))

    def leave() -> None:
        for signum in ours:
            loop.remove_signal_handler(signum)

    def listen(event: Event) -> None:
        nonlocal finished
        if isinstance(event, RunStarted):
            for signum in ours:
                loop.add_signal_handler(signum, heed, signum)
        elif isinstance(event, RunFinished):
            finished = True

    try:
        yield listen
    finally:
        leave()
