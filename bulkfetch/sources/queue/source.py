"""A queue as a source: many workers take from it, and what one of them does not finish comes again."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from random import Random
from typing import Self

import anyio
import anyio.lowlevel
import msgspec

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.events import Backlog, Listener, Note, Origin, OriginDown, OriginUp
from bulkfetch.interfaces import Queue
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import NO_FIELDS, DeadLetter, Delivery, InputRow, Lease, Malformed, Outcome, Row, utc_iso
from bulkfetch.sources.files.lines import RAW_LIMIT
from bulkfetch.tasks import running
from bulkfetch.text import safe

POLL = 0.5
"""Seconds that one request for messages waits for some: no cancellation takes place meanwhile, as it could lose what
is just arriving until its lease ends."""

SOON = 0.05
"""The same while suspects wait for their turn."""

MAX_DELIVERIES = 16
"""How often a message is taken in hand. Crashes of neighbours count, too, so fewer would put good invoices among the
dead letters; one that comes more often takes its worker down. What is handed back untried does not count."""

SUSPECT = 3
"""From which delivery on a message is taken up only beside no other such one. What was in hand together when a worker
died comes back together, so the one that kills would take good ones along to the end of their deliveries. Taken up one
by one, in any order, half of them are done before it is its turn."""

CROWDED_OUT = 30.0
"""Seconds after which a suspect comes back that is one too many to be kept waiting here."""

PUT_OFF = 30.0  # 30 s, 60 s, 120 s, 120 s … before what failed is tried again
PUT_OFF_MAX = 120.0
LOOK = 5.0
"""Seconds between two looks at how much is left."""

_RETRY_PAUSE = 1.0


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a message's body holds, as JSON: `id` is the invoice, `fields` what else its row says of it."""

    id: str
    fields: dict[str, str] = {}


_decode = msgspec.json.Decoder(Message).decode


def encode_message(delivery: Delivery) -> bytes:
    """The body that brings `delivery` to a worker."""
    return msgspec.json.encode(Message(delivery.invoice_id, dict(delivery.fields)))


class QueueSource:
    """The `Source` over a `Queue`.

    A lease is extended for as long as its invoice is in work. An invoice is acknowledged when its manifest row is
    durable; one that failed for good is put among the dead letters then.

    Args:
        limit: messages leased at a time.
        until_empty: end when nothing has been left in the queue for `idle` seconds, in any worker's hands included.
        max_outage: seconds without an answer of the broker after which the run is stopped.
    """

    redelivers = True

    def __init__(
        self,
        queue: Queue,
        *,
        limit: int,
        until_empty: bool,
        idle: float,
        max_outage: float,
        notify: Listener,
        utc_now: Callable[[], datetime],
        rng: Random,
    ) -> None:
        self.name = queue.name
        self._queue = queue
        self._limit = limit
        self._until_empty = until_empty
        self._idle = idle
        self._max_outage = max_outage
        self._notify = notify
        self._utc_now = utc_now
        self._rng = rng
        self._leases: dict[int, Lease] = {}
        self._suspects: list[Lease] = []
        self._taken_up: Lease | None = None
        self._empty_since: float | None = None
        self._trouble_since: float | None = None

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[Self]:
        """Itself, with the leases in hand kept alive until the block ends; then those that wait here go back."""
        try:
            async with running(self._keep_leases, self._watch):
                yield self
        finally:
            await self._hand_back(self._suspects)

    async def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        while True:
            leases = await self._fetch()
            if leases:
                self._empty_since = None
                yield [self._row(lease) for lease in leases]
            elif self._until_empty and await self._drained():
                return

    async def _fetch(self) -> Sequence[Lease]:
        try:
            with anyio.CancelScope(shield=True):
                leases = await self._queue.fetch(self._limit, SOON if self._suspects else POLL)
                self._leases.update((id(lease), lease) for lease in leases)
                taken = await self._apart(leases)
        except TransientError as error:
            await self._wait_for_broker(error)
            return ()
        self._answered()
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self._hand_back(taken)
            raise
        return taken

    async def _apart(self, leases: Sequence[Lease]) -> list[Lease]:
        """Those of `leases` that are taken up now, and a suspect if it is one's turn. The others wait here, leased: to
        wait in the queue would be one delivery more each time, and make poison of good ones in an outage."""
        taken = [lease for lease in leases if not SUSPECT <= lease.deliveries <= MAX_DELIVERIES]
        self._suspects += [lease for lease in leases if SUSPECT <= lease.deliveries <= MAX_DELIVERIES]
        self._rng.shuffle(self._suspects)
        if self._suspects and (self._taken_up is None or id(self._taken_up) not in self._leases):
            self._taken_up = self._suspects.pop()
            taken.append(self._taken_up)
        crowd, self._suspects = self._suspects[self._limit :], self._suspects[: self._limit]
        await self._give_back([(lease, self._rng.uniform(0.5, 1.5) * CROWDED_OUT) for lease in crowd])
        return taken

    async def _hand_back(self, leases: Sequence[Lease]) -> None:
        with anyio.CancelScope(shield=True):
            await self._give_back([(lease, 0.0) for lease in leases])

    async def _give_back(self, leases: Sequence[tuple[Lease, float]]) -> None:
        # At the same time: a broker that is silent must not take its time for each.
        async with anyio.create_task_group() as tasks:
            for lease, delay in leases:
                tasks.start_soon(self._release, lease, self._queue.give_back, delay)

    async def _wait_for_broker(self, error: TransientError) -> None:
        lasted = anyio.current_time() - self._in_trouble(error)
        if lasted > self._max_outage:
            raise FatalError(f"{self.name} has been out of service for {lasted:.0f} s ({error})")
        await anyio.sleep(_RETRY_PAUSE)

    def _in_trouble(self, error: TransientError) -> float:
        """Tell of `error`, unless that was done; since when there is trouble."""
        if self._trouble_since is None:
            self._trouble_since = anyio.current_time()
            self._notify(OriginDown(Origin.QUEUE, _RETRY_PAUSE, str(error)))
        return self._trouble_since

    def _answered(self) -> None:
        if self._trouble_since is not None:
            self._trouble_since = None
            self._notify(OriginUp(Origin.QUEUE))

    async def _drained(self) -> bool:
        """Whether nothing has been left for long enough. What other workers hold may still come back."""
        try:
            stats = await self._queue.stats()
        except TransientError as error:
            self._empty_since = None
            await self._wait_for_broker(error)
            return False
        now = anyio.current_time()
        if stats.waiting or stats.leased:
            self._empty_since = None
            return False
        if self._empty_since is None:
            self._empty_since = now
        return now - self._empty_since >= self._idle

    async def _watch(self) -> None:
        """Tell how much is left, and of a broker out of reach, also while no message is asked for."""
        while True:
            try:
                stats = await self._queue.stats()
            except TransientError as error:
                self._in_trouble(error)
            except FatalError:
                return  # the next request for messages meets it, too
            else:
                self._answered()
                self._notify(Backlog(stats.waiting, stats.leased))
            await anyio.sleep(LOOK)

    def _row(self, lease: Lease) -> InputRow:
        try:
            message = _read(lease.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            why = f"the message is neither an ID nor a JSON object with an id: {error}"
            return _rejected(lease, Reason.INVALID_ROW, why)
        invoice_id, fields = message.id, message.fields or NO_FIELDS
        if problem := check_invoice_id(invoice_id):
            return _rejected(lease, Reason.INVALID_ID, problem)
        if lease.deliveries > MAX_DELIVERIES:
            problem = f"handed out {lease.deliveries} times without a result: it may be what takes its workers down"
            return Malformed(safe(invoice_id, RAW_LIMIT), Reason.POISON, problem, tag=lease)
        return Delivery(
            invoice_id,
            fields=fields,
            tag=lease,
            redelivered=lease.redelivered,
            last=lease.deliveries == MAX_DELIVERIES,
        )

    async def ack(self, row: InputRow, account: Row) -> None:
        """See `interfaces.Source.ack`: what is stored or skipped is done with, else it becomes a dead letter."""
        lease = _lease_of(row)
        try:
            if account.outcome in (Outcome.STORED, Outcome.SKIPPED):
                await self._queue.ack(lease)
            else:
                await self._queue.dead(lease, self._letter(lease, account))
        except (TransientError, FatalError) as error:
            # The row is durable. The queue hands the message out once more, and then it is found to be done.
            self._notify(Note("warning", f"{self.name}: {safe(account.invoice_id, 80)} was not acknowledged: {error}"))
        finally:
            self._leases.pop(id(lease), None)

    async def nack(self, row: InputRow, *, later: bool = False) -> None:
        """See `interfaces.Source.nack`."""
        lease = _lease_of(row)
        if later:
            delay = min(PUT_OFF_MAX, PUT_OFF * 2.0 ** (lease.deliveries - 1))
            await self._release(lease, self._queue.nak, delay)
        else:
            await self._release(lease, self._queue.give_back, 0.0)

    async def _release(self, lease: Lease, way: Callable[[Lease, float], Awaitable[None]], delay: float) -> None:
        self._leases.pop(id(lease), None)
        try:
            await way(lease, delay)
        except (TransientError, FatalError) as error:
            self._notify(Note("warning", f"{self.name}: a message comes back only when its lease ends: {error}"))

    def _letter(self, lease: Lease, account: Row) -> DeadLetter:
        return DeadLetter(
            invoice_id=account.invoice_id,
            reason=account.reason or "",
            message=account.message,
            deliveries=lease.deliveries,
            failed_at=utc_iso(self._utc_now()),
            run=account.run,
            body=lease.body.decode("utf-8", "backslashreplace"),
        )

    async def _keep_leases(self) -> None:
        """Extend every lease in hand, three times in its life: one that ends early is work done twice."""
        while True:
            await anyio.sleep(self._queue.lease_seconds / 3.0)
            with suppress(TransientError, FatalError):  # others meet the same trouble, and tell of it
                await self._queue.extend(list(self._leases.values()))

    def estimate(self) -> int | None:
        """None: how much of it will come to this worker nobody knows."""
        return None

    def digest(self) -> tuple[str, int] | None:
        return None


def _read(body: bytes) -> Message:
    """What a message says; a producer that is not bulkfetch may send the bare ID."""
    words = body.strip(b" \t\r\n")
    return _decode(words) if words.startswith(b"{") else Message(words.decode())


def _rejected(lease: Lease, reason: Reason, problem: str) -> Malformed:
    raw = lease.body[: 4 * RAW_LIMIT].decode("utf-8", "backslashreplace")
    shown = safe(raw, RAW_LIMIT)
    if shown != raw:
        # Its dead letter goes by what is shown, and another message may begin alike.
        digest = hashlib.blake2b(lease.body, digest_size=8).hexdigest()
        shown = f"{safe(raw, RAW_LIMIT - len(digest) - 2)} #{digest}"
    return Malformed(shown, reason, problem, tag=lease)


def _lease_of(row: InputRow) -> Lease:
    assert isinstance(row.tag, Lease)  # noqa: S101 - every row of this source carries its lease
    return row.tag
