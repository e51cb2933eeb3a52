"""The pace of an origin: how many requests may start in a second."""


class Pace:
    """Spaces starts evenly, at the lower of a fixed and a learned rate. Rates are starts a second; 0 = no limit.

    The learned rate begins at the number of answers between two refusals over the time between them, pauses included:
    the server allows that much or more. A refusal near the learned rate lowers it a little. Between refusals the rate
    follows a cubic of the time (the shape of RFC 9438): it soon returns to where it was, stays there for a while, then
    grows faster and faster.
    """

    CLOSE = 0.8
    YIELD = 0.05
    PLATEAU = 20.0  # seconds from a refusal until the rate is back where it was
    PLATEAU_GUESS = 8.0  # the same while the rate is a guess: one that is too high is found out, one too low is not

    def __init__(self, fixed: float, now: float) -> None:
        self._fixed = fixed
        self._next = now
        self._passed = 0
        self._refused_at = now
        self._peak = 0.0
        self._plateau = self.PLATEAU_GUESS

    def reserve(self, now: float) -> float:
        """Take the next free moment for a start, and return it; it is `now` or later."""
        rate = self._rate(now)
        if not rate:
            return now
        start = max(now, self._next)
        self._next = start + 1.0 / rate
        return start

    @property
    def binds(self) -> bool:
        """Whether there is any rate to keep, fixed or learned."""
        return bool(self._fixed or self._peak)

    def passed(self) -> None:
        """Count an answer other than a refusal."""
        self._passed += 1

    def refused(self, now: float) -> None:
        """Learn from a refusal. Requests that were refused together are to be told of once."""
        seen = self._passed / max(now - self._refused_at, 0.001)
        rate = self._learned(now)
        if seen > self.CLOSE * rate > 0.0:
            # Near the limit already: what was seen is short of it by the pause alone.
            self._peak, self._plateau = rate, self.PLATEAU
        elif self._passed or rate:
            # Never below half of what was tried: one unlucky refusal after a pause says little about the rate.
            self._peak, self._plateau = max(seen, rate / 2.0, 0.2), self.PLATEAU_GUESS
        self._passed = 0
        self._refused_at = now

    def _learned(self, now: float) -> float:
        return self._peak * (1.0 + self.YIELD * ((now - self._refused_at) / self._plateau - 1.0) ** 3)

    def _rate(self, now: float) -> float:
        learned = self._learned(now)
        return min(self._fixed, learned) if self._fixed and learned else self._fixed or learned
