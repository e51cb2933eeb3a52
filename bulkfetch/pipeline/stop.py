"""The request to end a run early."""

import time

import anyio

from bulkfetch.errors import Aborted, BulkfetchError, ExitCode


class Interrupted(Aborted):
    """A person, a supervisor or the host program asked the run to end; `exit_code` is what the run then reports."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.STOPPED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stop:
    """The request to end a run early, made on the thread of the run's event loop. The first cause counts."""

    def __init__(self) -> None:
        self.cause: BulkfetchError | None = None
        self._since = 0.0
        self.requested = anyio.Event()
        self.forced = anyio.Event()

    def request(self, cause: BulkfetchError) -> None:
        """Take no more work, and finish what is in hand within the drain."""
        if self.cause is None:
            self.cause = cause
            self._since = time.monotonic()
            self.requested.set()

    def force(self) -> None:
        """Hand back at once what is in hand. `request` comes first."""
        self.forced.set()

    def deadline(self, drain: float) -> float | None:
        """The moment (monotonic seconds) by which a run with `drain` seconds shall have ended; None is never."""
        if self.forced.is_set():
            return self._since
        return self._since + drain if self.requested.is_set() else None
