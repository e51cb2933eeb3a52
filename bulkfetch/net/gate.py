"""Protects an origin from us: one gate per origin decides when a request may start.

A gate holds three brakes. Where there is a limit, `Retry-After` closes it for every worker until the time the server
named, then lets one probe through. A breaker closes it when the origin fails many times in a row. In between,
concurrency follows a window (slow start, then AIMD), and the pace follows what a limit was seen to allow: concurrency
alone cannot find a limit in requests a second when one request takes a few milliseconds.

Whether there is a limit at all, `refusals.py` decides: a single invoice that is refused waits by itself, alone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Self

import anyio

from bulkfetch.errors import BulkfetchError, FatalError, LinkAged, OriginError, Throttled
from bulkfetch.events import Listener, OriginDown, OriginUp
from bulkfetch.interfaces import SharedRate
from bulkfetch.net.breaker import Breaker, probe_wait
from bulkfetch.net.headers import MAX_RETRY_AFTER
from bulkfetch.net.pace import Pace
from bulkfetch.net.refusals import Refusals, Trial
from bulkfetch.net.requests import Requests
from bulkfetch.net.window import Window

UNANSWERED_REFUSALS = 8
"""After so many refusals with no answer in between, the origin is asked by single probes."""

CONTROLS = 3
"""So many invoices that were answered before are asked for once more before an answer stops the run."""

_GLANCE = 0.05

Ask = Callable[[str], Awaitable[bool]]
"""Asks the origin for an invoice, past the gate; whether it was answered."""


class Permit:
    """One request under way. It is closed once, with what became of it: by `close` or, as a context, by the end of its
    block. `invoice` is what the request is for. `fresh` says that the invoice has not failed in an earlier pass,
    `probe` that the request asks whether the origin is back.
    """

    __slots__ = ("_gate", "_open", "began", "fresh", "invoice", "probe")

    def __init__(self, gate: "Gate", invoice: str | None, *, began: float, fresh: bool, probe: bool) -> None:
        self._gate = gate
        self._open = True
        self.invoice = invoice
        self.began = began
        self.fresh = fresh
        self.probe = probe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Say how the request ended: None or an answer about the invoice means that the origin is well."""
        if self._open:
            self._open = False
            self._gate._left(self, error)  # noqa: SLF001 - a permit is the gate's own half

    def abandon(self) -> None:
        """Say that the request was given up from here, which says nothing about the origin."""
        self.close(_ABANDONED)


_ABANDONED = asyncio.CancelledError()


@dataclass(slots=True)
class _Pause:
    """The gate is closed `until` then; after that it is `half_open` until an answer comes, with one probe at a time."""

    until: float = 0.0
    half_open: bool = False
    probing: bool = False


@dataclass(slots=True)
class _Trouble:
    """What came since the last answer: `refusals`, those under way together counted once, and `since` when."""

    refusals: int = 0
    since: float | None = None


class Gate:
    """Decides when a request to one origin may start: in order of entry, as window, pace and pauses allow.

    Mutable: `_shut` is the pause and its probe, `_trial` the trial for whose end everybody waits. `_trouble` and
    `_given_up` tell for how long nothing was answered. The head of the queue waits for `_changed` and `_reserving`.
    All of them change without awaiting.

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
        self._max_outage = max_outage
        self._rng = rng
        self._notify = notify
        self._window = Window(ceiling)
        self._pace = Pace(rate, self._time())
        self._refusals = Refusals(self._pace)
        self._breaker = Breaker()
        self._shared_rate: SharedRate | None = None
        self._turnstile = anyio.Lock(fast_acquire=True)
        self._reserving = anyio.CancelScope()
        self._changed = anyio.Event()
        self._shut = _Pause()
        self._trial: Trial | None = None
        self._trouble = _Trouble()
        self._given_up: str | None = None
        self.requests = Requests()

    def join(self, shared_rate: SharedRate) -> None:
        """From now on `shared_rate` says when each request may start, and its other workers are told of every pause."""
        self._shared_rate = shared_rate

    def pause(self, seconds: float) -> None:
        """Close the gate for `seconds`, as another worker was told to wait."""
        self._close(self._time(), seconds, "another worker was asked for a pause")

    async def enter(self, invoice: str | None = None, *, fresh: bool = True) -> Permit:
        """Wait, in order of arrival, until a request may start. The permit counts as a request in flight until it is
        closed.

        Several failures of the same `invoice` are no sign of an outage (None stands for an invoice of its own). Neither
        is the failure of an invoice that is not `fresh`: it failed in an earlier pass, while others did not.

        Raises:
            FatalError: the outage lasted too long, or the server asked for a pause of over an hour.
        """
        if not self._may_start_now():
            async with self._turnstile:
                await self._until_it_may_start()
        self._window.in_flight += 1
        self._shut.probing = self._shut.half_open
        self.requests.sent += 1
        return Permit(self, invoice, began=self._time(), fresh=fresh, probe=self._shut.half_open)

    def _may_start_now(self) -> bool:
        """Whether nobody waits and nothing holds a request back: the usual case, which need not queue."""
        held_back = (
            self._shut.half_open
            or self._closed
            or self._trial is not None
            or self._window.full
            or self._pace.binds
            or self._shared_rate is not None
        )
        return not (held_back or self._turnstile.locked())

    async def _until_it_may_start(self) -> None:
        while True:
            await self._until_open()
            if self._window.full:
                await self._until_changed()
                continue
            # The shared rate may be out of reach for long, and a slot far away: `_give_up` need not wait for either.
            with anyio.CancelScope() as self._reserving:
                start = self._pace.reserve(self._time())
                if self._shared_rate is not None:
                    start = max(start, await self._shared_rate.reserve())
                if start > (now := self._time()):
                    await anyio.sleep(start - now)
            if not self._closed and self._trial is None:
                return

    async def settle(self, ask: Ask) -> None:
        """Make the trial that a refusal has made due, if it has, with `ask`. Whoever closed a permit with a refusal
        calls this at once: until then nothing starts."""
        trial = self._trial
        if trial is None or trial.begun:
            return
        trial.begun, limit = True, None
        try:
            while limit is None:
                if trial.paced:
                    await anyio.sleep(self._pace.reserve(self._time()) - self._time())
                limit = trial.note(answered=await self._asked(ask, trial.next()))
        finally:
            self._trial = None
            if limit is not None:
                now = self._time()
                self._refusals.judged(trial, limit=limit, now=now)
                if limit:
                    self._window.cut(now, now)
            self._changed.set()

    async def is_alone(self, ask: Ask) -> bool:
        """Whether an invoice that was answered a moment ago is answered again: then what another one met is its own
        affair. Where nothing was answered yet, what is under way is waited for. False if nothing of it is answered."""
        while not self._refusals.controls and self._window.in_flight and self._given_up is None:  # noqa: ASYNC110
            await anyio.sleep(_GLANCE)  # only the head of the queue is told of changes
        for invoice in self._refusals.controls[-CONTROLS:]:
            await self._until_open()
            start = self._pace.reserve(self._time())
            await anyio.sleep(max(0.0, start - self._time()))
            if await self._asked(ask, invoice):
                return True
        return False

    async def _asked(self, ask: Ask, invoice: str) -> bool:
        self.requests.sent += 1
        try:
            answered = await ask(invoice)
        except BaseException as error:
            self.requests.ended(error)
            if isinstance(error, BulkfetchError):
                return False
            raise
        self.requests.ended(None)
        return answered

    @property
    def outage(self) -> bool:
        """Whether the breaker is open: what fails now is the origin's fault, and charged to nobody."""
        return self._breaker.open

    @property
    def _closed(self) -> bool:
        return self._given_up is not None or self._time() < self._shut.until

    async def _until_open(self) -> None:
        while True:
            if self._given_up is not None:
                raise FatalError(self._given_up)
            pause = self._shut.until - self._time()
            if pause > 0:
                with anyio.move_on_after(pause):
                    await self._until_changed()
            elif (self._shut.half_open and self._shut.probing) or self._trial is not None:
                await self._until_changed()
            else:
                return

    async def _until_changed(self) -> None:
        # Only the head of the queue waits here: it holds the turnstile.
        self._changed = anyio.Event()
        await self._changed.wait()

    def _left(self, permit: Permit, error: BaseException | None) -> None:
        self._window.in_flight -= 1
        if permit.probe:
            self._shut.probing = False
        self.requests.ended(error)
        now = self._time()
        match error:
            case None:
                self._well(permit.invoice, now)
            case Throttled():
                self._throttled(permit, error, now)
            case OriginError():
                self._failed(permit, error, now)
            case LinkAged():
                pass  # nothing was sent, so nothing is known of the origin
            case Exception():
                self._well(None, now)  # an answer about the invoice, which makes no control of it
            case _:
                pass  # cancelled: says nothing about the origin
        self._changed.set()

    def _well(self, invoice: str | None, now: float) -> None:
        self._refusals.answered(invoice, now)
        self._breaker.answered()
        self._trouble.refusals, self._trouble.since = 0, None
        if self._shut.half_open and now >= self._shut.until:
            self._shut.half_open = False
            self._notify(OriginUp(self.origin))
        self._window.answered()

    def _throttled(self, permit: Permit, error: Throttled, now: float) -> None:
        pause = error.retry_after or 0.0
        trial = self._refusals.refused(permit.invoice, now, began=permit.began, pause=pause)
        if trial is not None and self._trial is None:
            self._trial = trial
        if not self._refusals.limited(now):
            return  # its own affair, as far as anybody knows
        self._trouble.since = self._trouble.since or now
        if self._window.cut(now, permit.began):
            self._trouble.refusals += 1
        lasted = now - self._trouble.since
        # Few but long pauses are the server's right, up to the longest there may be on top of an outage.
        # Of an object store nothing can be asked as a control, so each of its refusals is taken at its word.
        in_vain = self._trouble.refusals - (1 if permit.invoice is None else UNANSWERED_REFUSALS)
        if lasted > self._max_outage + (0.0 if in_vain > UNANSWERED_REFUSALS else MAX_RETRY_AFTER):
            self._give_up(f"{self.origin} has refused every request for {lasted:.0f} s")
            return
        pause = max(pause, probe_wait(in_vain) if in_vain >= 0 else 0.0)
        if not pause:
            return
        # Up to a quarter more, so that many clients do not come back as one.
        self._close(now, pause * self._rng.uniform(1.0, 1.25), f"HTTP {error.http_status}")
        if self._shared_rate is not None:
            self._shared_rate.pause(pause)

    def _failed(self, permit: Permit, error: OriginError, now: float) -> None:
        if permit.fresh:
            self._breaker.failed(permit.invoice or permit)
        self._window.failed(now, permit.began)
        if not self._breaker.open:
            return
        # What fails now is the origin's fault, and charged to nobody.
        error.charged = False
        self._trouble.since = self._trouble.since or now
        lasted = now - self._trouble.since
        if lasted > self._max_outage:
            self._give_up(f"{self.origin} has been out of service for {lasted:.0f} s (last: {error})")
        elif permit.probe or not self._shut.half_open:
            wait = self._breaker.next_wait()
            self._close(now, wait * self._rng.uniform(0.5, 1.0), f"out of service: {error}")

    def _close(self, now: float, seconds: float, why: str) -> None:
        self._shut.half_open = True
        if now + seconds > self._shut.until:
            self._shut.until = now + seconds
            self._notify(OriginDown(self.origin, seconds, why))

    def _give_up(self, why: str) -> None:
        self._given_up = why
        self._changed.set()
        self._reserving.cancel()
