"""The rate limit of the sandbox's API."""

import math

# A wait of exactly one token's time must not fail by a rounding error.
_ROUNDING = 1e-6


class TokenBucket:
    """Lets `rate` requests a second pass, and as many at once after a quiet second.

    `now` is in seconds of any clock that does not run backwards.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate)
        self._tokens = self._capacity
        self._updated = now

    def take(self, now: float) -> int | None:
        """None if the request may pass, else the whole seconds (at least 1) after which one may."""
        self._tokens = min(self._capacity, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens >= 1 - _ROUNDING:
            self._tokens -= 1
            return None
        return max(1, math.ceil((1 - self._tokens) / self._rate - _ROUNDING))
