"""The pace of an origin: how many requests may start in a second."""

import math

_START = 5.0
_STEP = 1.5
_ANSWERS_A_STEP = 4
_LEAST = 0.5
_CUT = 0.9
_GROWTH = 0.2
_EASE = 4.0  # seconds until the pace is back where it was, at 20 starts a second or more
_STARTS_TO_EASE = 40.0
_EASE_MOST = 10.0
_PAUSES_TO_EASE = 10.0
_CALM = 1.0
_FREE = 12.0
_MEMORY = 2.0  # seconds after which an answer counts for a third in the rate that was seen
_COLLAPSED = 0.6
_AHEAD = 4.0  # how far the climb may be ahead of what is answered


class Pace:
    """Spaces starts evenly, at the lower of a fixed and a learned rate. Rates are starts a second; 0 = no limit.

    What is learned begins slowly and grows by half with every few answers, until a refusal. Then it goes to a little
    less than what was refused, comes back within seconds, and grows on, faster and faster. It is forgotten when it has
    met no refusal for twelve seconds: a limit may be gone, too.

    Mutable: everything but the fixed rate; it changes without awaiting.
    """

    def __init__(self, fixed: float, now: float) -> None:
        self._fixed = fixed
        self._last = now - 1.0 / fixed if fixed else now
        self._seen = _MovingRate(now)
        self._peak = 0.0  # the learned rate at the last refusal; while it climbs, now
        self._climbing = False
        self._climbed = 0
        self._refused_at = now
        self._fruitless = 0
        self._answers = 0
        self._best = 0.0
        self._pause = 0.0

    @property
    def binds(self) -> bool:
        """Whether there is any rate to keep, fixed or learned."""
        return bool(self._fixed or self._peak)

    def learns(self, now: float) -> bool:
        """Whether there is a learned rate. It is forgotten here when its time has come."""
        if self._peak and now - self._refused_at > max(_FREE, 3.0 * self._ease):
            self._peak = 0.0
        return bool(self._peak)

    def reserve(self, now: float) -> float:
        """Take the next free moment for a start, and return it; it is `now` or later."""
        learned = self._rate(now) if self.learns(now) else 0.0
        rate = min(self._fixed, learned) if self._fixed and learned else self._fixed or learned
        if not rate:
            return now
        self._last = max(now, self._last + 1.0 / rate)
        return self._last

    def begin(self, now: float) -> None:
        """Learn a rate: there is a limit."""
        self._peak, self._climbing, self._climbed, self._fruitless, self._best = _START, True, 0, 0, 0.0
        self._refused_at = self._last = now
        self._seen = _MovingRate(now)

    def answered(self, now: float) -> None:
        """Count an answer other than a refusal."""
        if not self._peak:
            return
        self._seen.add(now)
        self._answers += 1
        if self._climbing:
            self._climbed += 1
            if self._climbed == _ANSWERS_A_STEP:
                self._climbed = 0
                self._peak = max(self._peak, min(self._peak * _STEP, _AHEAD * self._seen.at(now)))

    def refused(self, now: float, pause: float = 0.0) -> bool:
        """Learn from a refusal that asked for a `pause` of so many seconds; requests that were refused together are to
        be told of once. Whether the pace can hardly be the reason: it is far below what was answered before, and still
        there are refusals."""
        rate, calm, seen = self._rate(now), now - self._refused_at, self._seen.at(now)
        answers, self._answers = self._answers, 0
        if self._climbing and rate <= _START and not self._best:
            self._fruitless += 1
            return self._fruitless > 1
        if self._climbing:
            # The climb may have gone far too high, thanks to what a full bucket lets through. Where a step too far
            # costs a pause, better one too short.
            rate, self._best = min(rate / _STEP, max(_START, (1.25 if pause else 2.0) * seen)), min(rate, seen)
        elif calm >= self._ease:
            rate, self._best = min(rate, max(_LEAST, 1.1 * seen)), min(rate, seen)
        elif calm < _CALM:
            # Nothing is gained by small steps while most are refused. During a pause nothing is seen.
            rate = min(rate, max(seen, rate * (0.8 if self._pause else 1.0 / 3.0)))
        self._pause = pause
        was_climbing, self._climbing = self._climbing, False
        self._peak, self._refused_at = max(_LEAST, rate), now + pause
        return not was_climbing and answers >= _ANSWERS_A_STEP and _CUT * rate < _COLLAPSED * self._best

    @property
    def climbed_before(self) -> bool:
        """Whether a limit was met beyond the first, slowest pace."""
        return bool(self._best)

    def forget(self) -> None:
        """Learn nothing: there is no limit."""
        self._peak = 0.0

    def go_back(self, now: float) -> None:
        """The refusals were not the pace's: be as fast as before them, and find the limit from there."""
        self._peak = self._best
        self._climbing, self._climbed, self._refused_at = True, 0, now

    def stay(self, now: float) -> None:
        """The refusals were the pace's, however low it is: this is the best there is."""
        self._best = self._rate(now)

    @property
    def _ease(self) -> float:
        # Each refusal costs a pause, so a limit with long ones is tested less often.
        return max(min(_EASE_MOST, max(_EASE, _STARTS_TO_EASE / self._peak)), _PAUSES_TO_EASE * self._pause)

    def _rate(self, now: float) -> float:
        if self._climbing:
            return self._peak
        since, ease = max(0.0, now - self._refused_at), self._ease
        if since < ease:
            return self._peak * (_CUT + (1.0 - _CUT) * since / ease)
        return self._peak * (1.0 + _GROWTH * (since / ease - 1.0)) * math.pow(_STEP, max(0.0, since - 2.0 * ease))


class _MovingRate:
    """Answers a second, the last ones counting most."""

    def __init__(self, now: float) -> None:
        self._began = self._at = now
        self._sum = 0.0

    def add(self, now: float) -> None:
        self._sum = self._sum * math.exp((self._at - now) / _MEMORY) + 1.0
        self._at = now

    def at(self, now: float) -> float:
        told = 1.0 - math.exp(-max(now - self._began, 0.01) / _MEMORY)
        return self._sum * math.exp((self._at - now) / _MEMORY) / (_MEMORY * told)
