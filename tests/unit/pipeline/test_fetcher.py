"""The retried unit in itself: what is counted, what is closed, and what is tried again."""

from random import Random

import pytest
from support.doubles import GivenBody

from bulkfetch.errors import Aborted, BadBody, PermanentError, Reason, Refused, TransientError
from bulkfetch.events import RetryScheduled
from bulkfetch.models import Delivery, Link
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.job import Job
from bulkfetch.retrying import RetryPolicy

pytestmark = pytest.mark.anyio


class Origins:
    """An API, a download host and a store in one: each try ends in the next of `outcomes`, at the step it names."""

    def __init__(self, *outcomes):
        self.outcomes, self.asked, self.closed, self.suspects = list(outcomes), [], 0, []

    async def mint(self, invoice_id, *, fresh=True):
        self.asked.append((invoice_id, fresh))
        self.step, self.error = self.outcomes.pop(0)
        if self.step == "mint":
            raise self.error
        return Link("https://files.example/1", 0.0, 600, invoice_id, fresh)

    async def open(self, link, *, last_bad_sha256=None):
        self.suspects.append(last_bad_sha256)
        if self.step == "open":
            raise self.error
        body = GivenBody(b"%PDF-")
        body.close = self._close
        return body

    def _close(self):
        self.closed += 1

    async def put(self, key, body, *, committed, **more):
        if self.step == "put":
            raise self.error
        return 5


def again(reason=Reason.SERVER_ERROR):
    return TransientError(reason, "again")


DONE = ("done", None)


async def fetched(*outcomes, stopping=False, fresh=True, attempts=5):
    """What a fetch comes to, with the origins, the job and the events."""
    origins, events = Origins(*outcomes), []
    fetcher = Fetcher(
        origins, origins, origins, policy=RetryPolicy(attempts, 1e-4, 1e-4, 0.0), rng=Random(1),
        stopping=lambda: stopping, notify=events.append,
    )  # fmt: skip
    job = Job(Delivery("INV-1"), "INV-1.pdf")
    try:
        result = await fetcher.fetch(job, lambda landed: None, fresh=fresh)
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        result = error
    return result, origins, job, events


async def test_a_fetch_without_trouble_asks_once() -> None:
    """One link, one body, closed at the end; the bytes in the store's memory are told."""
    result, origins, job, events = await fetched(DONE)
    assert (result, origins.closed, job.effort.attempts, job.effort.links) == (5, 1, 1, 1)
    assert events == []


@pytest.mark.parametrize("step", ["mint", "open", "put"])
async def test_a_failure_at_any_step_begins_the_whole_unit_anew(step: str) -> None:
    """Every try asks for a new link, and every body that was opened is closed."""
    result, origins, job, events = await fetched((step, again()), (step, again()), DONE)
    assert result == 5
    assert len(origins.asked) == job.effort.attempts == 3
    assert job.effort.links == (1 if step == "mint" else 3)
    assert origins.closed == {"mint": 1, "open": 1, "put": 3}[step]
    assert [type(event) for event in events] == [RetryScheduled] * 2


@pytest.mark.parametrize("fresh", [True, False])
async def test_each_try_says_whether_the_invoice_failed_before(fresh: bool) -> None:
    """The gates must know what is no sign of an outage."""
    _, origins, _, _ = await fetched(("mint", again()), DONE, fresh=fresh)
    assert origins.asked == [("INV-1", fresh)] * 2


async def test_what_is_permanent_is_not_tried_again() -> None:
    """It goes through unchanged."""
    gone = PermanentError(Reason.NOT_FOUND, "gone")
    result, origins, _, _ = await fetched(("mint", gone), DONE)
    assert result is gone
    assert len(origins.asked) == 1


async def test_no_try_begins_once_the_run_is_ending() -> None:
    """The try under way is the last one."""
    result, origins, _, _ = await fetched(("open", again()), DONE, stopping=True)
    assert isinstance(result, Aborted)
    assert len(origins.asked) == 1


async def test_the_last_error_comes_out_when_the_tries_are_used_up() -> None:
    """As many tries as the policy allows, and no more."""
    errors = [again() for _ in range(3)]
    result, origins, job, _ = await fetched(*(("put", error) for error in errors), DONE, attempts=3)
    assert result is errors[-1]
    assert len(origins.asked) == job.effort.charged == 3


async def test_the_next_download_knows_what_was_no_pdf() -> None:
    """The digest of a body that was refused goes along, so that the same bytes can be told."""
    _, origins, _, _ = await fetched(("put", BadBody(Reason.NOT_PDF, "html", refused=Refused("ab", 4))), DONE)
    assert origins.suspects == [None, "ab"]
