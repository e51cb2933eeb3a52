"""From hand to hand: nothing is lost, nothing is kept, and whoever has waited longest comes first."""

import anyio
import anyio.lowlevel
import pytest

from bulkfetch.pipeline.handoff import Handoff

pytestmark = pytest.mark.anyio


async def test_the_one_who_waited_longest_gets_the_item() -> None:
    handoff, got = Handoff[int](), []

    async def take(name: str) -> None:
        got.append((name, await handoff.take()))

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(take, name)
        for item in range(3):
            await handoff.wanted()
            assert handoff.give(item)
    assert got == [("a", 0), ("b", 1), ("c", 2)]


async def test_nothing_is_given_to_nobody() -> None:
    handoff = Handoff[int]()
    assert not handoff.give(1)
    with anyio.move_on_after(0.01) as given_up:
        await handoff.take()
    assert given_up.cancelled_caught
    assert not handoff.give(1)


async def test_what_is_given_is_in_hand_before_a_cancellation_comes() -> None:
    handoff, got = Handoff[int](), []

    async def take(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            got.append(await handoff.take())
            await anyio.lowlevel.checkpoint()
            got.append("after the cancellation")

    async with anyio.create_task_group() as tasks:
        scope = await tasks.start(take)
        await handoff.wanted()
        assert handoff.give(1)
        scope.cancel()
    assert got == [1]


async def test_the_end_reaches_those_who_wait_and_those_who_come() -> None:
    handoff, got = Handoff[int](), []

    async def take() -> None:
        got.append(await handoff.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await handoff.wanted()
        handoff.close()
    assert got == [None]
    assert await handoff.take() is None
