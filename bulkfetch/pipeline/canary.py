"""Is it the run that is wrong? What may be the run's own fault is marked on no invoice."""

from collections import Counter
from collections.abc import Sequence

from bulkfetch.errors import FatalError, Reason
from bulkfetch.models import Delivery, InputRow, Outcome, Row

CANARY_OUTCOMES = 20
CANARY_IN_FLIGHT = 4
RATIO_MIN_FINISHED = 200

Pair = tuple[InputRow, Row]


class Canary:
    """Holds failures back until something has succeeded, and says when a run cannot be right.

    If nothing was ever stored in this archive and the first outcomes all fail for one reason, then the base URL, the
    tenant or the token is wrong: a million failures would only hide that. Later a run is stopped when too large a share
    of it fails.

    Mutable: `passed`, `_success_seen`, `held_back`, and the two counts. They change without awaiting.

    Args:
        max_failed_ratio: the share of failures above which a run of 200 invoices or more is stopped; 1 stops none, nor
            for the first failures.
        others_may_take: a row that is rejected here could be usable for another worker of the queue.
    """

    def __init__(self, *, max_failed_ratio: float, others_may_take: bool) -> None:
        self._max_failed_ratio = max_failed_ratio
        self._others_may_take = others_may_take
        self._finished = 0
        self._failures: Counter[Reason] = Counter()
        # Who allows any number of failures has a list that may begin with nothing else.
        self._success_seen = max_failed_ratio >= 1
        self.passed = False
        """Whether something is recorded as stored in this archive: then single failures are the invoices' own."""
        self.held_back: list[Pair] = []

    def sift(self, pairs: Sequence[Pair]) -> tuple[Sequence[Pair], FatalError | None]:
        """The pairs to record now, and why the run should stop, if it should. The other pairs are held back."""
        problem = None
        ready: list[Pair] = []
        held: list[Pair] = []
        for pair in pairs:
            if _succeeded(pair[1]):
                self._finished += 1
                self._success_seen = True
            elif pair[1].outcome is Outcome.FAILED:
                problem = self._failed(pair[1]) or problem
            (held if self._may_be_the_runs_fault(*pair) else ready).append(pair)
        if self._success_seen:
            return pairs, problem
        self.held_back += held
        return ready, problem

    def recorded(self, pairs: Sequence[Pair]) -> None:
        """Take note that `pairs` are durable: the first success among all of them proves the run."""
        self.passed = self.passed or any(_succeeded(row) for _, row in pairs)

    def arrived(self) -> None:
        """Take note that a whole document came: with the API and the download host nothing is wrong."""
        self._success_seen = True

    def let_go(self) -> Sequence[Pair]:
        """What was held back, to be recorded."""
        held, self.held_back = self.held_back, []
        return held

    @property
    def over(self) -> bool:
        """Whether there is no more reason to hold back: something succeeded, or the first failures differ."""
        return self._success_seen or len(self.held_back) >= CANARY_OUTCOMES

    def _may_be_the_runs_fault(self, input_row: InputRow, row: Row) -> bool:
        unusable_here = row.outcome is Outcome.REJECTED and self._others_may_take and isinstance(input_row, Delivery)
        return row.outcome is Outcome.FAILED or unusable_here

    def _failed(self, row: Row) -> FatalError | None:
        """Count a failure; why the run should stop here, if it should."""
        self._finished += 1
        if row.reason is not None:
            self._failures[row.reason] += 1
        failures = self._failures.total()
        if not self._success_seen and failures >= CANARY_OUTCOMES and len(self._failures) == 1:
            reason = next(iter(self._failures))
            return FatalError(
                f"the first {failures} invoices all failed with {reason}: check api.url, the token's organisation, "
                "the key template and the input, for it looks as if none of them can succeed"
            )
        if self._finished >= RATIO_MIN_FINISHED and failures > self._max_failed_ratio * self._finished:
            return FatalError(
                f"{failures} of {self._finished} invoices failed, more than limits.max_failed_ratio "
                f"({self._max_failed_ratio:g}) allows"
            )
        return None


def _succeeded(row: Row) -> bool:
    return row.outcome is Outcome.STORED or row.reason is Reason.ALREADY_STORED
