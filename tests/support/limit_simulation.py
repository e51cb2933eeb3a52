"""A run against an API that refuses, on a virtual clock: the rules are the real ones, everything around them is simple.

Minutes of a run take milliseconds, so that a rule can be held against hundreds of seeds.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from bulkfetch.net.pace import Pace
from bulkfetch.net.refusals import Refusals, Trial
from bulkfetch.net.window import Window


class TokenBucket:
    """A limiter: `rate` requests a second, and `burst` at once. A rate of 0 lets everything pass."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self._burst, self._tokens, self._at = rate, burst, burst, 0.0

    def passes(self, now: float) -> bool:
        """Whether a request that arrives now passes."""
        if not self.rate:
            return True
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass(frozen=True)
class World:
    """`invoices` to ask for, by `workers`, from an API that answers after `latency` seconds.

    `limit` and `burst` make its limiter, and `changes` are moments with another limit. `share` of the invoices, and
    those in `block`, are refused `times` times each, whatever the pace.
    """

    invoices: int = 2000
    workers: int = 32
    latency: float = 0.005
    limit: float = 0.0
    burst: float = 1.0
    changes: Sequence[tuple[float, float]] = ()
    share: float = 0.0
    block: range = range(0)
    times: int = 2


@dataclass
class Report:
    """`seconds` of the run, its requests, how many of them were `refused` beyond the first `workers`, when each invoice
    was answered, and how many trials found a limit or none."""

    seconds: float = 0.0
    sent: int = 0
    refused: int = 0
    answered: list[float] = field(default_factory=list)
    limits: int = 0
    singles: int = 0

    @property
    def refused_share(self) -> float:
        """Refused requests by all."""
        return self.refused / self.sent

    def rate(self, until: float | None = None) -> float:
        """Invoices a second, over the whole run or its first `until` seconds."""
        if until is None or until > self.seconds:
            return len(self.answered) / self.seconds
        return sum(moment <= until for moment in self.answered) / until


def simulate(world: World, seed: int) -> Report:
    """The run in `world`; `seed` decides which invoices are refused, and when exactly requests arrive."""
    return _Run(world, Random(seed)).report()


class _Run:
    """Events in the order of time. An invoice that is refused waits by itself: 1 s, 2 s, 4 s ... 30 s, with jitter."""

    def __init__(self, world: World, rng: Random) -> None:
        self._world, self._rng = world, rng
        self._limiter = TokenBucket(world.limit, world.burst)
        self._changes = list(world.changes)
        chosen = (number for number in range(world.invoices) if rng.random() < world.share or number in world.block)
        self._to_refuse = {str(number): world.times for number in chosen}
        self._refusals_of: dict[str, int] = {}
        self._window = Window(world.workers)
        self._pace = Pace(0.0, 0.0)
        self._rule = Refusals(self._pace)
        self._new = deque(map(str, range(world.invoices)))
        self._due: deque[str] = deque()
        self._trial: Trial | None = None
        self._held = False
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._report = Report()

    def report(self) -> Report:
        """What happened until every invoice was answered."""
        self._start_what_may()
        while len(self._report.answered) < self._world.invoices:
            self._now, _, event = heapq.heappop(self._events)
            while self._changes and self._now >= self._changes[0][0]:
                self._limiter.rate = self._changes.pop(0)[1]
            event()
        self._report.seconds = self._now
        return self._report

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, event))

    def _start_what_may(self) -> None:
        while not (self._window.full or self._trial or self._held or not (self._due or self._new)):
            invoice = (self._due or self._new).popleft()
            self._window.in_flight += 1
            start = self._pace.reserve(self._now)
            self._held = start > self._now
            self._at(start, partial(self._start, invoice))

    def _start(self, invoice: str) -> None:
        self._held = False
        if self._trial:
            self._window.in_flight -= 1
            self._due.appendleft(invoice)
            return
        began = self._now
        self._request(invoice, lambda answered: self._ended(invoice, began, answered))
        self._start_what_may()

    def _request(self, invoice: str, ended: Callable[[bool], None]) -> None:
        self._report.sent += 1

        def arrives() -> None:
            answered = self._answers(invoice)
            self._at(self._now + self._half(), lambda: ended(answered))

        self._at(self._now + self._half(), arrives)

    def _half(self) -> float:
        return self._world.latency / 2.0 * self._rng.uniform(0.98, 1.02)

    def _answers(self, invoice: str) -> bool:
        if self._to_refuse.get(invoice):
            self._to_refuse[invoice] -= 1
            return False
        return self._limiter.passes(self._now)

    def _ended(self, invoice: str, began: float, answered: bool) -> None:
        self._window.in_flight -= 1
        if answered:
            self._report.answered.append(self._now)
            self._rule.answered(invoice, self._now)
            self._window.answered()
        else:
            self._refused(invoice, began)
        self._start_what_may()

    def _refused(self, invoice: str, began: float) -> None:
        self._report.refused += self._report.sent > self._world.workers
        times = self._refusals_of[invoice] = self._refusals_of.get(invoice, 0) + 1
        wait = min(30.0, 2.0 ** (times - 1)) * self._rng.uniform(0.5, 1.0)
        self._at(self._now + wait, lambda: self._comes_again(invoice))
        trial = self._rule.refused(invoice, self._now, began=began)
        if trial and not self._trial:
            self._trial = trial
            self._ask_next(trial)

    def _comes_again(self, invoice: str) -> None:
        self._due.append(invoice)
        self._start_what_may()

    def _ask_next(self, trial: Trial) -> None:
        start = self._pace.reserve(self._now) if trial.paced else self._now
        self._at(start, lambda: self._request(trial.next(), lambda answered: self._tried(trial, answered)))

    def _tried(self, trial: Trial, answered: bool) -> None:
        limit = trial.note(answered=answered)
        if limit is None:
            self._ask_next(trial)
            return
        self._trial = None
        self._report.limits += limit
        self._report.singles += not limit
        self._rule.judged(trial, limit=limit, now=self._now)
        if limit:
            self._window.cut(self._now, self._now)
        self._start_what_may()
