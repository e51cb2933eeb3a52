"""What is put off: for the end of a file's run, or back to the queue."""

import pytest
from support.doubles import GivenQueue

from bulkfetch.models import Delivery
from bulkfetch.pipeline import second_pass
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.second_pass import AtTheEnd, BackToTheQueue

pytestmark = pytest.mark.anyio


def job(name="INV-1"):
    return Job(Delivery(name, 1), f"{name}.pdf")


async def test_jobs_wait_for_the_end_with_what_they_have_cost() -> None:
    """They come back once, in order, and the next failure is the last word."""
    waiting, first, second = AtTheEnd(), job("a"), job("b")
    assert [await waiting.put_off(first), await waiting.put_off(second)] == [True, True]
    assert waiting.take() == [first, second]
    assert (first.final, second.final) == (True, True)
    assert waiting.take() == []


async def test_no_more_wait_than_memory_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a failure is the last word at once."""
    monkeypatch.setattr(second_pass, "MAX_PUT_OFF", 2)
    waiting = AtTheEnd()
    assert [await waiting.put_off(job(str(number))) for number in range(3)] == [True, True, False]
    assert len(waiting.take()) == 2


async def test_a_queue_gets_it_back_until_others_were_answered_for() -> None:
    """Its second failure counts only where another invoice fared better in between."""
    source, answered = GivenQueue([]), [0]
    queue = BackToTheQueue(source, lambda: answered[0])
    failed = job()
    assert [await queue.put_off(failed) for _ in range(3)] == [True] * 3
    assert queue.was_put_off("INV-1")
    answered[0] = 1
    assert not await queue.put_off(failed)
    assert source.nacked == {1: 3}
    queue.forget("INV-1")
    assert not queue.was_put_off("INV-1")
    assert queue.take() == []
