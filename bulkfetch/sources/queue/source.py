"""A queue as a source: many workers take from it, and what one of them does not finish comes again."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random
from typing import Self, TypeVar

import anyio
import anyio.lowlevel

from bulkfetch.errors import FatalError, Reason, TransientError, UsageError
from bulkfetch.events import Backlog, Listener, Note, Origin, OriginDown, OriginUp
from bulkfetch.interfaces import Capabilities, Queue
from bulkfetch.models import DeadLetter, InputRow, Lease, Malformed, Outcome, Row, utc_iso
from bulkfetch.retrying import persisting
from bulkfetch.sources.queue.leases import HeldLeases
from bulkfetch.sources.queue.message import read_message
from bulkfetch.sources.queue.poison import Suspects, sentenced
from bulkfetch.tasks import running
from bulkfetch.text import printable

T = TypeVar("T")

POLL = 0.5
"""Seconds that one request for messages waits for them. It is not cancelled meanwhile: a message that was just arriving
would be out of reach until its lease ends."""

SOON = 0.05
"""The same while suspects wait for their turn."""

PUT_OFF = 30.0  # 30 s, 60 s, 120 s, 120 s … before what failed is tried again
PUT_OFF_MAX = 120.0
LOOK = 5.0
"""Seconds between two looks at how much is left."""

_RETRY_PAUSE = 1.0


class QueueSource:
    """The `Source` over a `Queue`.

    A lease is extended for as long as its invoice is in work. An invoice is acknowledged when its manifest row is
    durable; an invoice that failed for good becomes a dead letter then.

    Args:
        limit: messages leased at a time.
        until_empty: end when nothing has been left in the queue for `idle` seconds, in any worker's hands included.
        id_at: where a message holds the invoice ID, see `open_message`.
        max_outage: seconds without an answer of the broker after which the run is stopped.
    """

    capabilities = Capabilities(comes_again=True, repeats=True, shared=True, telling_blocks=True)

    def __init__(
        self,
        queue: Queue,
        *,
        limit: int,
        until_empty: bool,
        idle: float,
        max_outage: float,
        id_at: Sequence[str] = (),
        notify: Listener,
        utc_now: Callable[[], datetime],
        rng: Random,
    ) -> None:
        self.name = queue.name
        self.not_rows: Mapping[str, int] = {}
        self.handed_out = 0
        self.returned = 0
        self._queue = queue
        self._limit = limit
        self._id_at = id_at
        self._understood = False
        self._until_empty = until_empty
        self._idle = idle
        self._max_outage = max_outage
        self._notify = notify
        self._utc_now = utc_now
        self._leases = HeldLeases(queue, notify)
        self._suspects = Suspects(limit, rng, self._leases)
        self._empty_since: float | None = None
        self._in_outage = False

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[Self]:
        """This source, with its leases kept alive until the block ends; then waiting suspects are released."""
        try:
            async with running(self._leases.keep_alive, self._watch):
                yield self
        finally:
            await self._release(self._suspects.clear())

    async def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        while True:
            leases = await self._persist(self._lease)
            if leases:
                self._empty_since = None
                rows = [self._row(lease) for lease in leases]
                await self._refuse_strange(rows)
                self.handed_out += len(rows)
                yield rows
            elif self._until_empty and await self._drained():
                return

    def _row(self, lease: Lease) -> InputRow:
        row = read_message(lease, self._id_at)
        return row if isinstance(row, Malformed) else sentenced(row, lease)

    async def _refuse_strange(self, rows: Sequence[InputRow]) -> None:
        """Refuse a queue whose first messages name no invoice, all of them: they are somebody else's, or of a form that
        is yet to be told. As dead letters they would be lost to whoever they are for.

        Raises:
            UsageError: it is so; the messages are handed back.
        """
        self._understood = self._understood or any(_is_understood(row) for row in rows)
        if self._understood:
            return
        await self._release([_lease_of(row) for row in rows])
        first = rows[0]
        assert isinstance(first, Malformed)  # noqa: S101 - else it were understood
        raise UsageError(
            f"{self.name}: none of the first messages names an invoice, so all stay where they are; the first one: "
            f"{first.message}"
        )

    async def _lease(self) -> Sequence[Lease]:
        with anyio.CancelScope(shield=True):
            leases = await self._queue.fetch(self._limit, SOON if self._suspects else POLL)
            self._leases.add(leases)
            admitted = self._suspects.admit(leases)
            await self._leases.release(self._suspects.crowded_out())
        self._answer()
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self._release(admitted)
            raise
        return admitted

    async def _release(self, leases: Sequence[Lease]) -> None:
        with anyio.CancelScope(shield=True):
            await self._leases.release((lease, 0.0) for lease in leases)

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns; a broker out of reach is waited for.

        Raises:
            FatalError: the outage lasts too long, or the broker refuses.
        """
        try:
            return await persisting(call, self._max_outage, pause=_RETRY_PAUSE, on_failure=self._no_answer)
        except TransientError as error:
            raise FatalError(f"{self.name} has been out of service for {self._max_outage:.0f} s ({error})") from None

    def _no_answer(self, error: TransientError) -> None:
        # Nobody saw whether the queue stayed empty meanwhile.
        self._empty_since = None
        if not self._in_outage:
            self._in_outage = True
            self._notify(OriginDown(Origin.QUEUE, _RETRY_PAUSE, str(error)))

    def _answer(self) -> None:
        if self._in_outage:
            self._in_outage = False
            self._notify(OriginUp(Origin.QUEUE))

    async def _drained(self) -> bool:
        """Whether nothing has been left for long enough. What other workers hold may still come back."""
        stats = await self._persist(self._queue.stats)
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
                self._no_answer(error)
            except FatalError:
                return  # the next request for messages meets it, too
            else:
                self._answer()
                self._notify(Backlog(stats.waiting, stats.leased))
            await anyio.sleep(LOOK)

    async def ack(self, input_row: InputRow, row: Row) -> None:
        """See `interfaces.Source.ack`. A row that is stored or skipped ends the message, any other one makes a dead
        letter of it."""
        lease = _lease_of(input_row)
        try:
            if row.outcome in (Outcome.STORED, Outcome.SKIPPED):
                await self._queue.ack(lease)
            else:
                await self._queue.dead(lease, self._dead_letter(lease, row))
        except (TransientError, FatalError) as error:
            # The row is durable. The queue hands the message out once more, and then it is found to be done.
            self._notify(Note("warning", f"{self.name}: {printable(row.invoice_id, 80)} was not acknowledged: {error}"))
        finally:
            self._leases.drop(lease)

    async def nack(self, input_row: InputRow) -> None:
        """See `interfaces.Source.nack`: it comes again after a delay that doubles each time, up to two minutes."""
        self.returned += 1
        lease = _lease_of(input_row)
        await self._leases.nack(lease, min(PUT_OFF_MAX, PUT_OFF * 2.0 ** (lease.deliveries - 1)))

    async def release(self, input_row: InputRow, delay: float = 0.0) -> None:
        """See `interfaces.Source.release`."""
        self.returned += 1
        await self._leases.release([(_lease_of(input_row), delay)])

    def _dead_letter(self, lease: Lease, row: Row) -> DeadLetter:
        return DeadLetter(
            invoice_id=row.invoice_id,
            reason=row.reason or "",
            message=row.message,
            deliveries=lease.deliveries,
            failed_at=utc_iso(self._utc_now()),
            run=row.run,
            body=lease.body.decode("utf-8", "backslashreplace"),
        )

    def estimate(self) -> int | None:
        """None: nobody knows how much of the queue will come to this worker."""
        return None

    def digest(self) -> tuple[str, int] | None:
        return None


def _is_understood(row: InputRow) -> bool:
    # Poison was a good message.
    return not isinstance(row, Malformed) or row.reason is Reason.POISON


def _lease_of(input_row: InputRow) -> Lease:
    assert isinstance(input_row.tag, Lease)  # noqa: S101 - every row of this source carries its lease
    return input_row.tag
