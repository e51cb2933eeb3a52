"""Messages that may take down their workers: suspects are tried one by one, and given up in the end.

Messages that were in hand together when a worker died come back together. If they were tried together again, the one
that kills would take the good ones along each time, until all were given up. When they are tried one at a time, in any
order, half of the good ones are done before it is the turn of the one that kills.
"""

from collections.abc import Container, Sequence
from random import Random

from msgspec.structs import replace

from bulkfetch.errors import Reason
from bulkfetch.models import Delivery, InputRow, Lease, Malformed
from bulkfetch.sources.raw import raw_text

MAX_DELIVERIES = 16
"""How often a message is tried. A neighbour's crash counts as a delivery, too, so a smaller number would give up good
invoices. A message that was released untried does not count."""

SUSPECT = 3
"""A message is a suspect from this delivery on."""

CROWDED_OUT = 30.0
"""A suspect that finds too many others waiting here stays away for about so many seconds."""


class Suspects:
    """The suspects that wait in this worker, `limit` at most, until it is their turn.

    They wait here, leased: to wait in the queue would be one delivery more each time, and in an outage good messages
    would be given up for it. `in_hand` holds the leases that are still being worked on.
    """

    def __init__(self, limit: int, rng: Random, in_hand: Container[Lease]) -> None:
        self._limit = limit
        self._rng = rng
        self._in_hand = in_hand
        self._waiting: list[Lease] = []
        self._tried: Lease | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, leases: Sequence[Lease]) -> list[Lease]:
        """The leases to try now: all that are no suspects, and one suspect if none is being tried."""
        admitted = [lease for lease in leases if not _is_suspect(lease)]
        self._waiting += [lease for lease in leases if _is_suspect(lease)]
        self._rng.shuffle(self._waiting)
        if self._waiting and (self._tried is None or self._tried not in self._in_hand):
            self._tried = self._waiting.pop()
            admitted.append(self._tried)
        return admitted

    def crowded_out(self) -> list[tuple[Lease, float]]:
        """Take out the suspects over the limit; each with the delay in seconds after which it may come again."""
        crowd, self._waiting = self._waiting[self._limit :], self._waiting[: self._limit]
        return [(lease, self._rng.uniform(0.5, 1.5) * CROWDED_OUT) for lease in crowd]

    def clear(self) -> Sequence[Lease]:
        """Take out all that wait."""
        left, self._waiting = self._waiting, []
        return left


def _is_suspect(lease: Lease) -> bool:
    return SUSPECT <= lease.deliveries <= MAX_DELIVERIES


def sentenced(row: Delivery, lease: Lease) -> InputRow:
    """`row` with its last chance marked; a rejected row if it has been handed out too often."""
    if lease.deliveries > MAX_DELIVERIES:
        problem = f"handed out {lease.deliveries} times without a result: it may be what takes its workers down"
        return Malformed(raw_text(row.invoice_id), Reason.POISON, problem, tag=lease)
    return replace(row, final=True) if lease.deliveries == MAX_DELIVERIES else row
