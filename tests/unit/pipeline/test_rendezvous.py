"""From hand to hand: nothing is lost, nothing is kept, and whoever has waited longest comes first."""

import anyio
import anyio.lowlevel
import pytest

from bulkfetch.pipeline.rendezvous import Rendezvous

pytestmark = pytest.mark.anyio


async def test_the_one_who_waited_longest_gets_the_item() -> None:
    rendezvous, got = Rendezvous[int](), []

    async def take(name: str) -> None:
        got.append((name, await rendezvous.receive()))

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(take, name)
        for item in range(3):
            await rendezvous.wait_receiver()
            assert rendezvous.send_nowait(item)
    assert got == [("a", 0), ("b", 1), ("c", 2)]


async def test_nothing_is_given_to_nobody() -> None:
    rendezvous = Rendezvous[int]()
    assert not rendezvous.send_nowait(1)
    with anyio.move_on_after(0.01) as given_up:
        await rendezvous.receive()
    assert given_up.cancelled_caught
    assert not rendezvous.send_nowait(1)


async def test_what_is_given_is_in_hand_before_a_cancellation_comes() -> None:
    rendezvous, got = Rendezvous[int](), []

    async def take(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            got.append(await rendezvous.receive())
            await anyio.lowlevel.checkpoint()
            got.append("after the cancellation")

    async with anyio.create_task_group() as tasks:
        scope = await tasks.start(take)
        await rendezvous.wait_receiver()
        assert rendezvous.send_nowait(1)
        scope.cancel()
    assert got == [1]


async def test_the_end_reaches_those_who_wait_and_those_who_come() -> None:
    rendezvous, got = Rendezvous[int](), []

    async def take() -> None:
        got.append(await rendezvous.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await rendezvous.wait_receiver()
        rendezvous.close()
    assert got == [None]
    assert await rendezvous.receive() is None
