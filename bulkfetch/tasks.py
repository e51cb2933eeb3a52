"""Tasks beside a block of code."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio


@asynccontextmanager
async def background(*jobs: Callable[[], Coroutine[Any, Any, Any]]) -> AsyncIterator[None]:
    """Run `jobs`, which go on for ever, until the block ends. What the block raises goes through as it is: callers know
    an end by its type, and a task group would wrap it."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(job)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is raised again below
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
