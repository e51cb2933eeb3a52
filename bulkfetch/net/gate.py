"""Protects an origin from us: one gate per origin decides when a request may start.

A gate holds three brakes. `Retry-After` closes it for every worker until the time the server named, then lets one
probe through. A breaker closes it when the origin fails many times in a row. In between, concurrency follows AIMD
(additive increase, multiplicative decrease), and after a refusal the pace follows what the server was seen to allow:
concurrency alone cannot find a limit in requests a second when one request takes a few milliseconds.
"""

import asyncio
from random import Random
from typing import Self

import anyio

from bulkfetch.errors import FatalError, LinkAged, OriginError, SingledOut, Throttled
from bulkfetch.events import Listener, OriginDown, OriginUp
from bulkfetch.interfaces import Fleet
from bulkfetch.policy import MAX_RETRY_AFTER

START_LIMIT = 4.0
DECREASE = 0.7
BREAKER_FAILURES = 20
"""Invoices that fail one after the other, none answered in between, before it is the origin that is taken to be down. A
few that always fail, at the end of a list, are not: they fail again and again, but are few."""

PROBE_WAIT_FIRST = 1.0  # 1 s, 2 s, 4 s … between the probes of an outage
PROBE_WAIT_MAX = 30.0
FRUITLESS_THROTTLES = 20


class Pace:
    """Spaces starts evenly at the lower of a fixed rate and a learned one; starts a second, 0 = as fast as they come.

    The learned rate begins as what went through between two refusals, the pause included: that is what the server
    allows, or less. A refusal near it lowers it a little. In between it follows a cubic of the time since the refusal
    (the shape of RFC 9438): soon back to where it was, for a while there, then faster and faster beyond.
    """

    CLOSE = 0.8
    YIELD = 0.05
    PLATEAU = 20.0  # seconds from a refusal until the rate is back where it was
    PLATEAU_GUESS = 8.0  # the same where the rate is but a guess, and better soon found too high than long too low

    def __init__(self, fixed: float, now: float) -> None:
        self._fixed = fixed
        self._next = now
        self._passed = 0
        self._refused_at = now
        self._peak = 0.0
        self._plateau = self.PLATEAU_GUESS

    def reserve(self, now: float) -> float:
        """The moment at which the next request may start; it is taken by the caller."""
        rate = self._rate(now)
        if not rate:
            return now
        start = max(now, self._next)
        self._next = start + 1.0 / rate
        return start

    @property
    def binds(self) -> bool:
        """Whether there is a rate to keep at all."""
        return bool(self._fixed or self._peak)

    def passed(self) -> None:
        """Count an answer that was no refusal."""
        self._passed += 1

    def refused(self, now: float) -> None:
        """Learn from a refusal; to be called once for all that were refused together."""
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


class Ticket:
    """One request under way; closed once, with what became of it: by `close`, or as a context, by an error inside."""

    __slots__ = ("_gate", "_open", "invoice", "probe", "started")

    def __init__(self, gate: "Gate", invoice: str | None, *, started: float, probe: bool) -> None:
        self._gate = gate
        self._open = True
        self.invoice = invoice
        self.started = started
        self.probe = probe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Say how the request ended: None or an answer about the invoice means that the origin is well."""
        if self._open:
            self._open = False
            self._gate._left(self, error)  # noqa: SLF001 - a ticket is the gate's own half


class Gate:
    """Admission to one origin.

    Args:
        origin: what the origin is called in messages.
        ceiling: requests in flight at most.
        rate: starts a second at most; 0 = no fixed rate.
        max_outage: seconds of total outage after which the run is stopped.
    """

    def __init__(
        self,
        origin: str,
        *,
        ceiling: int,
        max_outage: float,
        rng: Random,
        notify: Listener,
        rate: float = 0.0,
    ) -> None:
        self.origin = origin
        # Bound once: to find the running loop costs more than to ask it, and it is asked ten times a file.
        self._time = asyncio.get_running_loop().time
        self._ceiling = float(ceiling)
        self._max_outage = max_outage
        self._rng = rng
        self._notify = notify
        self._limit = min(START_LIMIT, self._ceiling)
        self._in_flight = 0
        self._pace = Pace(rate, self._time())
        self._fleet: Fleet | None = None
        self._turnstile = anyio.Lock(fast_acquire=True)
        self._reserving = anyio.CancelScope()
        self._changed = anyio.Event()
        self._closed_until = 0.0
        self._half_open = False
        self._probing = False
        self._last_cut = 0.0
        self._armed = True
        self._failing: set[object] = set()
        self._failed_probes = 0
        self._throttles = 0
        self._trouble_since: float | None = None
        self._given_up: str | None = None
        self.requests = 0
        self.refused = 0
        self.answered = 0
        """Answers to what was asked after the latest refusal or failure: what was under way then proves nothing."""

    def join(self, fleet: Fleet) -> None:
        """Start no request before `fleet` gives a moment for it, and tell its workers of every pause."""
        self._fleet = fleet

    def pause(self, seconds: float) -> None:
        """Close the gate for `seconds`, as another worker was told to wait."""
        self._close(self._time(), seconds, "another worker was asked for a pause")

    async def enter(self, invoice: str | None = None) -> Ticket:
        """Wait, in order of arrival, until a request may start; the ticket is a place for it until it is closed.
        Requests for the same `invoice` (None: one of its own) that fail are no sign of an outage.

        Raises:
            FatalError: the outage lasted too long, or the server asked for a pause of over an hour.
        """
        if not self._may_start_now():
            async with self._turnstile:
                await self._until_it_may_start()
        self._in_flight += 1
        self._probing = self._half_open
        self.requests += 1
        return Ticket(self, invoice, started=self._time(), probe=self._half_open)

    def _may_start_now(self) -> bool:
        """Whether nobody waits and nothing holds a request back: the usual case, which need not queue."""
        held_back = self._closed or self._half_open or self._full or self._pace.binds or self._fleet is not None
        return not (held_back or self._turnstile.locked())

    async def _until_it_may_start(self) -> None:
        while True:
            await self._until_open()
            if self._full:
                await self._until_changed()
                continue
            # The fleet may be out of reach for long, and a slot far away: `_give_up` need not wait for either.
            with anyio.CancelScope() as self._reserving:
                start = self._pace.reserve(self._time())
                if self._fleet is not None:
                    start = max(start, await self._fleet.reserve())
                if start > (now := self._time()):
                    await anyio.sleep(start - now)
            if not self._closed:
                return

    @property
    def outage(self) -> bool:
        """Whether the breaker is open: what fails now is the origin's fault, and charged to nobody."""
        return self._armed and len(self._failing) >= BREAKER_FAILURES

    def disarm(self) -> None:
        """Take no row of failures for an outage any more: what is asked for from here on has failed before, while
        others did not."""
        self._armed = False

    def arm(self) -> None:
        """Heed them again: what is asked for from here on was not asked for before."""
        if not self._armed:
            self._armed = True
            self._failing.clear()

    @property
    def _full(self) -> bool:
        return self._in_flight >= max(1, int(self._limit))

    @property
    def _closed(self) -> bool:
        return self._given_up is not None or self._time() < self._closed_until

    async def _until_open(self) -> None:
        while True:
            if self._given_up is not None:
                raise FatalError(self._given_up)
            pause = self._closed_until - self._time()
            if pause > 0:
                with anyio.move_on_after(pause):
                    await self._until_changed()
            elif self._half_open and self._probing:
                await self._until_changed()
            else:
                return

    async def _until_changed(self) -> None:
        # Only the head of the queue waits here: it holds the turnstile.
        self._changed = anyio.Event()
        await self._changed.wait()

    def _left(self, ticket: Ticket, error: BaseException | None) -> None:
        self._in_flight -= 1
        if ticket.probe:
            self._probing = False
        now = self._time()
        match error:
            case None:
                self._well(ticket, now)
            case Throttled():
                self._throttled(ticket, error, now)
            case OriginError():
                self._failed(ticket, error, now)
            case SingledOut():
                self.refused += 1  # says nothing about the others, neither that they may go on nor that they must wait
            case LinkAged():
                self.requests -= 1  # nothing was sent, so nothing is known of the origin
            case Exception():
                self._well(ticket, now)  # an answer about the invoice
            case _:
                pass  # cancelled: says nothing about the origin
        self._changed.set()

    def _well(self, ticket: Ticket, now: float) -> None:
        if ticket.started >= self._last_cut:
            self.answered += 1
        self._pace.passed()
        self._failing.clear()
        self._throttles = self._failed_probes = 0
        self._trouble_since = None
        if self._half_open and now >= self._closed_until:
            self._half_open = False
            self._notify(OriginUp(self.origin))
        if self._in_flight + 1 >= self._limit / 2:
            self._limit = min(self._ceiling, self._limit + 1.0 / self._limit)

    def _throttled(self, ticket: Ticket, error: Throttled, now: float) -> None:
        self.refused += 1
        if error.retry_after is not None and error.retry_after > MAX_RETRY_AFTER:
            self._give_up(f"{self.origin} asks for a pause of {error.retry_after:.0f} s: run again after that")
            return
        # What started before the last cut was refused for the same reason: cut once, not once a request.
        if ticket.started >= self._last_cut:
            self._throttles += 1
            self._cut(now)
            self._pace.refused(now)
        self._trouble_since = self._trouble_since or now
        lasted = now - self._trouble_since
        # Few but long pauses are the server's right, up to the longest there may be on top of an outage.
        patience = self._max_outage if self._throttles > FRUITLESS_THROTTLES else self._max_outage + MAX_RETRY_AFTER
        if lasted > patience:
            self._give_up(f"{self.origin} has refused every request for {lasted:.0f} s")
            return
        own = min(PROBE_WAIT_MAX, PROBE_WAIT_FIRST * 2.0 ** min(self._throttles - 1, 10))
        pause = max(own, error.retry_after or 0.0)
        # Up to a quarter more, so that many clients do not come back as one.
        self._close(now, pause * self._rng.uniform(1.0, 1.25), f"HTTP {error.http_status}")
        if self._fleet is not None:
            self._fleet.pause(pause)

    def _failed(self, ticket: Ticket, error: OriginError, now: float) -> None:
        if len(self._failing) < BREAKER_FAILURES:
            self._failing.add(ticket.invoice or ticket)
        if ticket.started >= self._last_cut:
            self._cut(now)
        if not self.outage:
            return
        error.charged = False
        self._trouble_since = self._trouble_since or now
        lasted = now - self._trouble_since
        if lasted > self._max_outage:
            self._give_up(f"{self.origin} has been out of service for {lasted:.0f} s (last: {error})")
        elif ticket.probe or not self._half_open:
            wait = min(PROBE_WAIT_MAX, PROBE_WAIT_FIRST * 2.0 ** min(self._failed_probes, 10))
            self._failed_probes += 1
            self._close(now, wait * self._rng.uniform(0.5, 1.0), f"out of service: {error}")

    def _cut(self, now: float) -> None:
        self._last_cut = now
        self._limit = max(1.0, self._limit * DECREASE)

    def _close(self, now: float, seconds: float, why: str) -> None:
        self._half_open = True
        if now + seconds > self._closed_until:
            self._closed_until = now + seconds
            self._notify(OriginDown(self.origin, seconds, why))

    def _give_up(self, why: str) -> None:
        self._given_up = why
        self._changed.set()
        self._reserving.cancel()
