"""Whose a refusal is: a limit's, which holds for all, or a single invoice's. A refusal is judged by its neighbours.

A running sum rises with every refusal of an invoice that was not refused before, and falls with every answer. Single
invoices, up to one in twenty, hardly ever bring it to its bar (a sequential probability ratio test of 5% against 50%).
Where it gets there, a trial asks for invoices that were answered a moment ago, the controls, beside some that were
refused. If the controls are answered and the others refused again, the refusals are their own. Else there is a limit,
and a pace is learned.
"""

from collections import deque
from dataclasses import dataclass

from bulkfetch.net.pace import Pace

_REFUSAL = 2.30  # ln(0.5 / 0.05)
_ANSWER = 0.64  # ln(0.95 / 0.5)
_BAR = 9.2  # ln(10,000): four refusals in a row
_BAR_MOST = 16.0 * _BAR
_PAIRS = 3
_REMEMBERED = 8
_REFUSED_REMEMBERED = 10_000


@dataclass(slots=True)
class Trial:
    """Requests that tell a limit from single invoices: each an invoice, and whether it is a control. `paced` says that
    they are to keep the learned pace, `begun` that somebody makes them."""

    asks: list[tuple[str, bool]]
    paced: bool
    begun: bool = False
    made: int = 0

    def next(self) -> str:
        """The invoice to ask for next."""
        return self.asks[self.made][0]

    def note(self, *, answered: bool) -> bool | None:
        """Take note of what became of the request: whether there is a limit, if that is clear now."""
        control = self.asks[self.made][1]
        self.made += 1
        if control is not answered:
            return True
        return False if self.made == len(self.asks) else None


class Refusals:
    """Follows the answers and refusals of one origin, and sets its learned `pace`.

    Mutable: everything but `pace`; it changes without awaiting. `_tolerant` says that single refusals are known to be
    the invoices' own, so that only an alarm slows the pace down.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._sum = 0.0
        self._bar = _BAR
        self._tolerant = False
        self._cut_at = 0.0
        self._controls: deque[str] = deque(maxlen=_REMEMBERED)
        self._suspects: deque[str] = deque(maxlen=_REMEMBERED)
        self._refused: dict[str, None] = {}

    @property
    def controls(self) -> tuple[str, ...]:
        """The invoices that were answered last."""
        return tuple(self._controls)

    def answered(self, invoice: str | None, now: float) -> None:
        """Take note of an answer."""
        self._sum = max(0.0, self._sum - _ANSWER)
        self._pace.answered(now)
        if invoice is not None:
            self._controls.append(invoice)

    def limited(self, now: float) -> bool:
        """Whether there is a limit, as far as is known."""
        return self._pace.learns(now)

    def refused(self, invoice: str | None, now: float, *, began: float, pause: float = 0.0) -> Trial | None:
        """Take note that a request that `began` then was refused, with a `pause` in seconds that was asked for.

        Returns the trial that is due now, if there is one: nothing else is to start until it is `judged`. Where no
        invoice can be a control, because nothing was answered yet or requests are about none, there is a limit at once.
        """
        first = invoice is None or invoice not in self._refused
        if first:
            self._sum += _REFUSAL
            if invoice is not None:
                self._suspects.append(invoice)
                self._remember(invoice)
        alarm = first and self._sum >= self._bar
        if not self._pace.learns(now):
            self._tolerant = False
            if invoice is None or (alarm and not self._controls):
                self._sum, self._cut_at = 0.0, now
                self._pace.begin(now)
                return None
            return self._trial(paced=False) if alarm else None
        # What started before the last cut was refused for the same reason: cut once, not once a request.
        if began < self._cut_at or not (alarm or not self._tolerant):
            return None
        self._cut_at = now
        if self._tolerant:
            self._sum = 0.0
        return self._trial(paced=True) if self._pace.refused(now, pause) else None

    def judged(self, trial: Trial, *, limit: bool, now: float) -> None:
        """Act on the verdict of `trial`."""
        self._sum, self._cut_at = 0.0, now
        if limit and not trial.paced:
            self._tolerant = False
            self._pace.begin(now)
        elif limit:
            self._tolerant, self._bar = False, _BAR
            self._pace.stay(now)
        elif trial.paced and self._pace.climbed_before:
            self._tolerant, self._bar = True, _BAR
            self._pace.go_back(now)
        else:
            # The next block of such invoices costs a trial less often.
            self._bar = min(_BAR_MOST, 2.0 * self._bar)
            self._pace.forget()

    def _remember(self, invoice: str) -> None:
        self._refused[invoice] = None
        if len(self._refused) > _REFUSED_REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def _trial(self, *, paced: bool) -> Trial | None:
        if not self._controls:
            return None
        controls, suspects = list(self._controls)[-_PAIRS:], list(self._suspects)[-_PAIRS:]
        asks = []
        for number in range(_PAIRS):
            asks.append((controls[number % len(controls)], True))
            if not paced:
                asks.append((suspects[number % len(suspects)], False))
        return Trial(asks, paced)
