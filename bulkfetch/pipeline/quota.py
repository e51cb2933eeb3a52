"""How much of its input a run may fetch."""

from collections.abc import Sequence
from typing import TypeVar

from bulkfetch.pipeline.stop import Interrupted

T = TypeVar("T")


class Quota:
    """Lets the first `limit` invoices pass that have to be fetched; 0 lets all pass.

    What needs no fetching does not count: else the same command again would never come further.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self.exceeded = False
        """Whether there was more than the limit."""

    def admit(self, jobs: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
        """Those of `jobs` that may be fetched, and those that are too many."""
        if not self._limit:
            return jobs, []
        within, over = jobs[: self._left], jobs[self._left :]
        self._left -= len(within)
        self.exceeded |= bool(over)
        return within, over

    def cause(self) -> Interrupted:
        """Why the run ends before its input does."""
        return Interrupted(f"the limit of {self._limit:,} invoices is reached (source.limit)")
