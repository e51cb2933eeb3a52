"""When outcomes say that it is the run that is wrong, and not its invoices."""

from collections import Counter

from bulkfetch.errors import FatalError, Reason

CANARY_OUTCOMES = 20
CANARY_IN_FLIGHT = 4
RATIO_MIN_FINISHED = 200


class RunGuard:
    """Watches outcomes and stops a run that cannot be right.

    Canary: while nothing has ever succeeded and the first outcomes all failed for one reason, the base URL, tenant or
    token is wrong, and a million failures would only hide it. Ratio: most of what was asked for fails.
    """

    def __init__(self, *, max_failed_ratio: float) -> None:
        self._max_failed_ratio = max_failed_ratio
        self._finished = 0
        self._failures: Counter[Reason] = Counter()
        self.proven = False
        """Whether anything was ever stored in this archive: then single failures are the invoices' own."""

    def succeeded(self) -> None:
        """Count an invoice that is in the archive, now or before."""
        self._finished += 1
        self.proven = True

    def failed(self, reason: Reason) -> None:
        """Count an invoice that was given up.

        Raises:
            FatalError: the run should stop here.
        """
        self._finished += 1
        self._failures[reason] += 1
        failures = self._failures.total()
        if not self.proven and failures >= CANARY_OUTCOMES and len(self._failures) == 1:
            raise FatalError(
                f"the first {failures} invoices all failed with {reason}: check api.url, the token's organisation, "
                "the key template and the input, for it looks as if none of them can succeed"
            )
        if self._finished >= RATIO_MIN_FINISHED and failures > self._max_failed_ratio * self._finished:
            raise FatalError(
                f"{failures} of {self._finished} invoices failed, more than limits.max_failed_ratio "
                f"({self._max_failed_ratio:g}) allows"
            )
