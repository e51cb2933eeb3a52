"""Time-outs for requests by one sweep: a timer for each would cost more than the requests' own bookkeeping."""

import asyncio
from typing import Self

SWEEP_SECONDS = 0.1
"""How late a deadline may be noticed."""


class Deadlines:
    """Ends the requests of one event loop that take too long.

    Mutable: `_running`, the requests under way, and whether a sweep is due; both change without awaiting.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: set[Deadline] = set()
        self._sweep_due = False

    def within(self, seconds: float) -> "Deadline":
        """A context that may take `seconds` from now; what takes longer raises TimeoutError."""
        return Deadline(self, self._loop.time() + seconds)

    def begin(self, deadline: "Deadline") -> None:
        """Watch `deadline`."""
        self._running.add(deadline)
        if not self._sweep_due:
            self._sweep_due = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def end(self, deadline: "Deadline") -> None:
        """Watch it no more."""
        self._running.discard(deadline)

    def _sweep(self) -> None:
        now = self._loop.time()
        for deadline in [each for each in self._running if each.at <= now]:
            deadline.expire()
        self._sweep_due = bool(self._running)
        if self._sweep_due:
            self._loop.call_later(SWEEP_SECONDS, self._sweep)


class Deadline:
    """One stretch of waiting, in one task. The task is cancelled when it is over, as `asyncio.timeout` does it."""

    __slots__ = ("_cancelling", "_deadlines", "_expired", "_task", "at")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self.at = at
        self._deadlines = deadlines
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - a request is made in a task
        self._cancelling = self._task.cancelling()
        self._deadlines.begin(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._deadlines.end(self)
        if self._expired and self._task is not None:
            # Only the cancellation that came from here is taken back; one from outside goes on.
            from_here_alone = self._task.uncancel() <= self._cancelling
            if from_here_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error

    def expire(self) -> None:
        """The time is over."""
        if self._task is not None and not self._expired:
            self._expired = True
            self._deadlines.end(self)
            self._task.cancel()
