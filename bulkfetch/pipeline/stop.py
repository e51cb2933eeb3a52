"""The request to end a run early."""

import anyio

from bulkfetch.errors import BulkfetchError


class Stop:
    """The request to end a run early: the first cause counts."""

    def __init__(self) -> None:
        self.cause: BulkfetchError | None = None
        self.requested = anyio.Event()
        self.forced = anyio.Event()

    def request(self, cause: BulkfetchError) -> None:
        """Take no more work, finish what is in hand."""
        if self.cause is None:
            self.cause = cause
            self.requested.set()

    def force(self) -> None:
        """Hand back at once what is in hand; `request` comes first."""
        self.forced.set()
