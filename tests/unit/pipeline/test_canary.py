"""When a run is given up, and what is held back until it is clear that the run is right."""

import pytest

from bulkfetch.errors import Reason
from bulkfetch.models import Delivery, Malformed, Outcome, Row
from bulkfetch.pipeline.canary import Canary


def pair(outcome=Outcome.FAILED, reason=Reason.NOT_FOUND, input_row=None):
    """An input row and the row that ends it."""
    row = Row(run="r", invoice_id="i", outcome=outcome, reason=reason, started_at="", finished_at="")
    return input_row or Delivery("i"), row


STORED = pair(Outcome.STORED, None)


def canary(ratio=0.99, *, others_may_take=False):
    return Canary(max_failed_ratio=ratio, others_may_take=others_may_take)


def test_canary_stops_a_run_that_never_succeeded():
    """Twenty failures for one reason before any success stop the run, none is to be recorded, and the message names the
    reason."""
    guard = canary()
    for _ in range(19):
        assert guard.sift([pair()]) == ([], None)
    ready, problem = guard.sift([pair()])
    assert ready == []
    assert "not_found" in str(problem)
    assert len(guard.let_go()) == 20


@pytest.mark.parametrize("first", [STORED, pair(reason=Reason.FORBIDDEN), pair(Outcome.SKIPPED, Reason.ALREADY_STORED)])
def test_canary_spares_a_run_that_is_merely_unlucky(first):
    """A success, now or in an earlier run, or failures of two kinds, say that the configuration is right."""
    guard = canary()
    assert [guard.sift([each])[1] for each in (first, *(pair() for _ in range(100)))] == [None] * 101
    assert guard.over


def test_whoever_allows_any_number_of_failures_is_not_stopped_by_the_first_ones():
    """With a ratio of 1 a list may begin with failures alone: each is recorded at once, and none stops the run."""
    guard = canary(1.0)
    for _ in range(300):
        each = pair()
        assert guard.sift([each]) == ([each], None)


def test_failures_are_held_back_until_the_first_success():
    """They are kept, in order, and recorded later; after the first success none is held back any more."""
    guard, failures = canary(), [pair(), pair(reason=Reason.FORBIDDEN)]
    assert guard.sift(failures) == ([], None)
    assert not guard.over
    assert guard.sift([STORED]) == ([STORED], None)
    assert guard.over
    assert guard.let_go() == failures
    assert guard.let_go() == []
    assert guard.sift(failures) == (failures, None)


@pytest.mark.parametrize("others_may_take", [True, False])
def test_what_another_worker_may_take_is_held_back(others_may_take):
    """A row without a usable key may be another worker's to take, on a queue; a malformed one is nobody's."""
    guard = canary(others_may_take=others_may_take)
    unusable = pair(Outcome.REJECTED, Reason.INVALID_ROW)
    malformed = pair(Outcome.REJECTED, Reason.INVALID_ID, Malformed("?", Reason.INVALID_ID, "no ID"))
    ready, _ = guard.sift([unusable, malformed])
    assert ready == ([malformed] if others_may_take else [unusable, malformed])


def test_ratio_guard_waits_for_enough_outcomes():
    """Too many failures among the finished stop the run, but not before 200 have finished."""
    guard = canary(0.5)
    guard.sift([STORED])
    for _ in range(198):
        assert guard.sift([pair()])[1] is None
    assert "199 of 200" in str(guard.sift([pair()])[1])
