"""Where an invoice goes that failed: kept for another try, or done with."""

import pytest

from bulkfetch.errors import Reason, Throttled, UnexpectedAnswer
from bulkfetch.models import Delivery
from bulkfetch.pipeline.again import Again
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.job import Job

pytestmark = pytest.mark.anyio


class Room:
    """A waiting room that takes whoever comes."""

    def __init__(self):
        self.jobs = []

    async def wait(self, job, error):
        self.jobs.append(job)
        return True


class NoRefusals:
    """No earlier run was sent the same bytes."""

    async def judge(self, job, error):
        return error


@pytest.mark.parametrize(("retry_after", "waits"), [(None, True), (3600.0, True), (3601.0, False), (1e9, False)])
async def test_nobody_is_waited_for_longer_than_an_hour(retry_after, waits):
    """Then the invoice fails alone, and the run ends without it."""
    room, job = Room(), Job(Delivery("A"), "A.pdf")
    error = Throttled(Reason.RATE_LIMITED, "later", http_status=429, retry_after=retry_after)
    word = await Again(room, None, NoRefusals(), InHand()).last_word(job, error)
    assert (word, room.jobs) == ((None, [job]) if waits else (error, []))


async def test_what_time_does_not_mend_is_the_last_word():
    """It goes to no second pass."""
    error = UnexpectedAnswer(Reason.BAD_RESPONSE, "HTTP 418")
    assert await Again(Room(), None, NoRefusals(), InHand()).last_word(Job(Delivery("A"), "A.pdf"), error) is error
