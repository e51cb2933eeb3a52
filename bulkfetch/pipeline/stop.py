"""The request to end a run early."""

import anyio

from bulkfetch.errors import BulkfetchError


class Stop:
    """The request to end a run early: the first cause counts."""

    def __init__(self) -> None:
        self.cause: BulkfetchError | None = None
        self.requested = anyio.Event()
        self.hurried = anyio.Event()

    def request(self, cause: BulkfetchError) -> None:
        """Take no more work, finish what is in hand."""
        if self.cause is None:
            self.cause = cause
            self.requested.set()

    def hurry(self) -> None:
        """Hand back at once what is in hand; `request` comes first."""
        self.hurried.set()
