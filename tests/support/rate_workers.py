"""Workers that share a rate, in this process or as the target of another one, which is to find it by its module."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import anyio

from bulkfetch.interfaces import SharedRate
from support.nats_help import opened


@asynccontextmanager
async def workers(
    url: str,
    number: int,
    rate: float,
    *,
    patience: float = 10.0,
    name: str = "api",
    on_pause: Callable[[int, float], None] | None = None,
) -> AsyncIterator[list[SharedRate]]:
    """`number` workers that share one rate, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        shares: list[SharedRate] = []
        for index in range(number):
            queue = await stack.enter_async_context(opened(url))
            hear = partial(on_pause, index) if on_pause else lambda seconds: None
            shared = queue.shared_rate(name, rate=rate, patience=patience, on_pause=hear)
            share = await stack.enter_async_context(shared)
            assert share
            shares.append(share)
        yield shares


def work_in_a_process(url: str, rate: float, moments: "Connection[float | None, Any]") -> None:
    """A worker process: the wall-clock moments at which it could start, sent as they come."""

    async def main() -> None:
        async with workers(url, 1, rate) as (share,):
            moments.send(None)

            async def one() -> None:
                while True:
                    slot = await share.reserve()
                    ahead = max(0.0, slot - anyio.current_time())
                    moments.send(time.time() + ahead)
                    await anyio.sleep(ahead)

            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(one)

    anyio.run(main)
