"""Where an invoice waits that is put off, and when its failure is the last word."""

import pytest
from support.doubles import GivenQueue

from bulkfetch.models import Delivery
from bulkfetch.pipeline import second_pass
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.second_pass import AtTheEnd, BackToTheQueue

pytestmark = pytest.mark.anyio


def job(invoice_id="A"):
    return Job(Delivery(invoice_id), f"{invoice_id}.pdf")


async def test_a_lists_jobs_come_back_once_and_for_the_last_time():
    """What was put off is taken once, in order, and its next failure is final."""
    waiting, first, second = AtTheEnd(), job("A"), job("B")
    assert [await waiting.put_off(each) for each in (first, second)] == [True, True]
    assert waiting.take() == [first, second]
    assert first.final
    assert waiting.take() == []


async def test_a_list_puts_off_a_bounded_number(monkeypatch):
    """However long the input: over the bound a failure is final at once."""
    monkeypatch.setattr(second_pass, "MAX_PUT_OFF", 2)
    waiting = AtTheEnd()
    assert [await waiting.put_off(job(each)) for each in "ABC"] == [True, True, False]


async def test_a_queues_invoice_fails_for_good_only_if_others_were_answered_for():
    """While nothing else succeeds the fault may lie elsewhere: the invoice goes back each time, and is not fresh."""
    answered = 0
    queue = GivenQueue([])
    waiting = BackToTheQueue(queue, lambda: answered)
    assert not waiting.was_put_off("A")
    assert await waiting.put_off(job())
    assert await waiting.put_off(job())
    assert waiting.was_put_off("A")
    answered = 1
    assert not await waiting.put_off(job())
    assert queue.returned == 2
    waiting.forget("A")
    assert not waiting.was_put_off("A")
    assert await waiting.put_off(job())


async def test_a_queue_remembers_a_bounded_number(monkeypatch):
    """The oldest is forgotten: it gets one pass more than others, and memory stays flat."""
    monkeypatch.setattr(second_pass, "MAX_PUT_OFF", 2)
    waiting = BackToTheQueue(GivenQueue([]), lambda: 0)
    for each in "ABC":
        await waiting.put_off(job(each))
    assert [waiting.was_put_off(each) for each in "ABC"] == [False, True, True]
