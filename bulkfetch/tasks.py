"""Tasks beside a block of code, and errors without the groups that task groups wrap them in."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio

from bulkfetch.errors import first_error


@asynccontextmanager
async def running(*jobs: Callable[[], Coroutine[Any, Any, Any]]) -> AsyncIterator[None]:
    """Run `jobs` beside the block, and cancel those that are left at its end.

    An error of the block, or of a job (which cancels the block), is raised as it is: callers know it by its type.
    """
    with ungrouped():
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job)
            yield
            tasks.cancel_scope.cancel()


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the first error of the block's exception group instead of the group."""
    try:
        yield
    except ExceptionGroup as group:
        error = first_error(group)
        # It keeps its own cause; a traceback shall not show the group as what came before it.
        raise error from error.__cause__
