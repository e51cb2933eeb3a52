"""Workers that share a rate, in this process or as the target of another one, which is to find it by its module."""

import time
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from support.nats_help import opened


@asynccontextmanager
async def workers(url, number, rate, *, patience=10.0, name="api", on_pause=None):
    """`number` workers of one fleet, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        fleets = []
        for index in range(number):
            queue = await stack.enter_async_context(opened(url))
            hear = (lambda seconds, index=index: on_pause(index, seconds)) if on_pause else (lambda seconds: None)
            shared = queue.shared_rate(name, rate=rate, patience=patience, on_pause=hear)
            fleets.append(await stack.enter_async_context(shared))
        yield fleets


def work_in_a_process(url, rate, moments) -> None:
    """A worker process: the wall-clock moments at which it could start, sent as they come."""

    async def main() -> None:
        async with workers(url, 1, rate) as (fleet,):
            moments.send(None)

            async def one() -> None:
                while True:
                    slot = await fleet.reserve()
                    ahead = max(0.0, slot - anyio.current_time())
                    moments.send(time.time() + ahead)
                    await anyio.sleep(ahead)

            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(one)

    anyio.run(main)
