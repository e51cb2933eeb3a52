"""When a run is given up."""

import pytest

from bulkfetch.errors import FatalError, Reason
from bulkfetch.pipeline.canary import RunGuard


def test_canary_stops_a_run_that_never_succeeded():
    """Twenty failures for one reason before any success stop the run, and the message names the reason."""
    guard = RunGuard(max_failed_ratio=1.0)
    for _ in range(19):
        guard.failed(Reason.NOT_FOUND)
    with pytest.raises(FatalError, match="not_found"):
        guard.failed(Reason.NOT_FOUND)


@pytest.mark.parametrize("first", [None, Reason.FORBIDDEN])
def test_canary_spares_a_run_that_is_merely_unlucky(first):
    """One success, or failures of two kinds, say that the configuration is right."""
    guard = RunGuard(max_failed_ratio=1.0)
    guard.failed(first) if first else guard.succeeded()
    for _ in range(100):
        guard.failed(Reason.NOT_FOUND)


def test_ratio_guard_waits_for_enough_outcomes():
    """Too many failures among the finished stop the run, but not before 200 have finished."""
    guard = RunGuard(max_failed_ratio=0.5)
    guard.succeeded()
    for _ in range(198):
        guard.failed(Reason.NOT_FOUND)
    with pytest.raises(FatalError, match="199 of 200"):
        guard.failed(Reason.NOT_FOUND)
