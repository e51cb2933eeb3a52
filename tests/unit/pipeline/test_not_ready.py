"""Where an invoice waits whose document is not ready yet, for how long, and what it counts as meanwhile."""

import anyio
import pytest
from support.doubles import GivenQueue
from support.virtual_clock import run_virtual

from bulkfetch.errors import NoLink, NotReady, Reason, Refused
from bulkfetch.models import Delivery
from bulkfetch.pipeline import not_ready
from bulkfetch.pipeline.canary import CANARY_OUTCOMES, Canary
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.job import Job, Patience
from bulkfetch.pipeline.not_ready import ByTheClock, InTheQueue, Waits

NOT_YET = NotReady(Reason.NOT_READY, "HTTP 204")
NO_LINK = NoLink(Reason.BAD_RESPONSE, "no url in it")


def job(invoice_id="A"):
    return Job(Delivery(invoice_id), f"{invoice_id}.pdf")


def named(seconds):
    return NotReady(Reason.NOT_READY, "HTTP 202", retry_after=seconds)


def canary(*, passed=False):
    made = Canary(max_failed_ratio=0.99, others_may_take=False)
    made.passed = passed
    return made


@pytest.mark.parametrize(
    ("wait_max", "errors", "seconds"),
    [
        (30.0, [NOT_YET] * 4, [5.0, 30.0, 120.0, None]),
        (0.2, [NOT_YET] * 4, [5.0, 5.0, 5.0, None]),
        (30.0, [named(1.0)] * 10, [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, None]),
        (30.0, [named(0.0), NOT_YET, NOT_YET], [1.0, 30.0, 120.0]),
        (30.0, [named(300.0), NOT_YET], [300.0, None]),
        (30.0, [named(3600.0), NOT_YET], [3600.0, None]),
        (30.0, [named(3601.0)], [None]),
    ],
)
def test_how_long_an_invoice_waits(wait_max, errors, seconds):
    """As the server says, up to an hour; else 5 s, 30 s and 2 min by default. None: it has waited for long enough."""
    waits, patience = Waits(wait_max), Patience()
    assert [waits.next(patience, error) for error in errors] == seconds


class Room:
    """A waiting room by a virtual clock: what comes back, and when."""

    def __init__(self, **options):
        self.in_hand, self.back = InHand(), []
        self.canary = canary(**options)
        self.room = ByTheClock(Waits(30.0), self.canary, self.in_hand, again=self.again)

    def again(self, job):
        self.back.append((anyio.current_time(), job.delivery.invoice_id))

    async def wait(self, invoice_id, error=NOT_YET):
        self.in_hand.taken()
        return await self.room.wait(job(invoice_id), error)


def test_each_comes_back_in_its_time():
    """By the clock, not in the order in which they came to wait; meanwhile all are in hand, and with no worker."""

    async def main():
        room = Room()
        for invoice_id, error in (("A", NOT_YET), ("B", named(2.0)), ("C", named(9.0))):
            assert await room.wait(invoice_id, error)
        await anyio.sleep(20.0)
        assert room.back == [(2.0, "B"), (5.0, "A"), (9.0, "C")]
        assert (room.in_hand.invoices, room.in_hand.awaiting_row) == (3, 0)

    run_virtual(main)


def test_the_last_ask_is_not_too_early():
    """What has waited long enough is put off to the end; there it waits until the server wants to be asked again, and
    its bytes are kept aside if they come once more."""

    async def main():
        room, last = Room(), job()
        last.patience = Patience(3, 155.0)
        error = NotReady(Reason.NOT_READY, "x", retry_after=60.0, refused=Refused("ab", 3))
        assert not await room.room.wait(last, error)
        assert last.effort.last_bad_sha256 == "ab"
        await anyio.sleep(10.0)
        assert room.room.until_its_time(last)
        await anyio.sleep(100.0)
        assert room.back == [(60.0, "A")]
        assert not room.room.until_its_time(last)

    run_virtual(main)


def test_what_waits_can_be_taken_back():
    """Then none of it comes back any more, and none is in hand."""

    async def main():
        room = Room()
        for invoice_id in "AB":
            await room.wait(invoice_id)
        assert [taken.delivery.invoice_id for taken in room.room.take()] == ["A", "B"]
        assert room.room.take() == []
        await anyio.sleep(10.0)
        assert (room.back, room.in_hand.invoices) == ([], 0)

    run_virtual(main)


def test_the_source_waits_when_many_wait(monkeypatch):
    """Those that wait and those with workers together are bounded; what awaits its row is none of them."""
    monkeypatch.setattr(not_ready, "MOST_WAITING", 3)

    async def main():
        room = Room()
        for invoice_id in "AB":
            await room.wait(invoice_id)
        await room.room.room()
        room.in_hand.taken()
        with anyio.move_on_after(1.0) as waited:
            await room.room.room()
        assert waited.cancelled_caught
        room.in_hand.passed_on()
        await room.room.room()

    run_virtual(main)


def test_no_link_may_be_the_runs_own_fault():
    """Until something has succeeded only so many wait for a link that was not named; a document is waited for."""

    async def main():
        room = Room()
        waited = [await room.wait(f"A{number}", NO_LINK) for number in range(CANARY_OUTCOMES + 2)]
        assert waited == [True] * CANARY_OUTCOMES + [False] * 2
        assert await room.wait("B", NOT_YET)
        room.canary.passed = True
        assert await room.wait("C", NO_LINK)

    run_virtual(main)


def test_a_queue_keeps_the_time():
    """The invoice goes back untried, with the delay; its patience is remembered, however often it comes."""

    async def main():
        queue, in_hand = GivenQueue([]), InHand()
        waiting = InTheQueue(Waits(30.0), canary(), in_hand, queue)
        for _ in range(2):
            for _ in range(3):
                in_hand.taken()
                assert await waiting.wait(job(), NOT_YET)
            assert not await waiting.wait(job(), NOT_YET)
            waiting.forget("A")
        assert queue.delays == [5.0, 30.0, 120.0] * 2
        assert in_hand.invoices == 0

    run_virtual(main)


def test_a_queue_remembers_a_bounded_number(monkeypatch):
    """The oldest is forgotten, and waited for anew."""
    monkeypatch.setattr(not_ready, "MOST_WAITING", 2)

    async def main():
        queue = GivenQueue([])
        waiting = InTheQueue(Waits(30.0), canary(), InHand(), queue)
        for invoice_id in "ABCAC":
            assert await waiting.wait(job(invoice_id), NOT_YET)
        assert queue.delays == [5.0, 5.0, 5.0, 5.0, 30.0]

    run_virtual(main)
