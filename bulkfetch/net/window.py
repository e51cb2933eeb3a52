"""How many requests may be in flight at a time: slow start, then AIMD (additive increase, multiplicative decrease)."""

START = 4.0
DECREASE = 0.7
OVERLOADED = 0.2
"""The share of failures above which an origin is overloaded, and not just unlucky with single requests."""

_MEMORY = 32.0  # answers after which one counts for about a third in the moving share


class Window:
    """The requests in flight at one origin, and how many there may be. `ceiling` bounds them for good.

    Mutable: all but `ceiling`; it changes without awaiting.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = float(ceiling)
        self._limit = min(START, self._ceiling)
        self._slow_start = True
        self._failing_share = 0.0
        self.in_flight = 0
        self.cut_at = 0.0
        """When the limit was cut last; what began before was under way then, and says nothing about the new one."""

    @property
    def full(self) -> bool:
        """Whether one request more would be too many."""
        return self.in_flight >= max(1, int(self._limit))

    def answered(self) -> None:
        """Widen after an answer, if the window was used: doubled each round trip until the first cut, then by one."""
        self._failing_share -= self._failing_share / _MEMORY
        if self.in_flight + 1 >= self._limit / 2:
            step = 1.0 if self._slow_start else 1.0 / self._limit
            self._limit = min(self._ceiling, self._limit + step)

    def failed(self, now: float, began: float) -> None:
        """Count a failure of the origin; the window narrows if they are many, and once for those in flight together."""
        self._failing_share += (1.0 - self._failing_share) / _MEMORY
        if self._failing_share > OVERLOADED:
            self.cut(now, began)

    def cut(self, now: float, began: float) -> bool:
        """Narrow the window, unless the request that `began` then was already in flight at the last cut. Whether it was
        narrowed."""
        if began < self.cut_at:
            return False
        self.cut_at = now
        self._slow_start = False
        self._limit = max(1.0, self._limit * DECREASE)
        return True
