"""Tasks beside a block: they end with it, and errors come through as they are."""

import anyio
import pytest

from bulkfetch.errors import FatalError, UsageError, first_error
from bulkfetch.tasks import running, ungrouped

pytestmark = pytest.mark.anyio


async def test_jobs_run_beside_the_block_and_end_with_it():
    """A job that goes on for ever is cancelled at the end of the block, and that it ends is waited for."""
    steps = []

    async def job():
        steps.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("ended")

    async with running(job, job):
        await anyio.wait_all_tasks_blocked()
        assert steps == ["begun", "begun"]
    assert steps == ["begun", "begun", "ended", "ended"]


async def test_an_error_of_the_block_is_raised_as_it_is():
    """It keeps its type and its cause, and no group is shown with it."""
    cause = ValueError("why")
    with pytest.raises(UsageError) as caught:
        async with running(anyio.sleep_forever):
            raise UsageError("wrong") from cause
    assert caught.value.__cause__ is cause
    assert caught.value.__suppress_context__


async def test_an_error_of_a_job_ends_the_block():
    """The block is cancelled, and the job's error is raised as it is, before what the block raises on its way out."""

    async def job():
        raise FatalError("disk full")

    with pytest.raises(FatalError, match="disk full"):
        async with running(job):
            try:
                await anyio.sleep_forever()
            finally:
                raise UsageError("while it closed")


async def test_a_cancellation_goes_through():
    """It is nobody's error."""
    with anyio.CancelScope() as scope:
        async with running(anyio.sleep_forever):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_first_error_of_nested_groups():
    """However deep it lies; an error outside any group is itself."""
    error = FatalError("first")
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [error, ValueError()]), ValueError()])
    assert first_error(group) is error
    assert first_error(error) is error
    with pytest.raises(FatalError) as caught, ungrouped():
        raise group
    assert caught.value is error
