"""What is on its way is counted, and bounded in invoices and in bytes."""

import anyio
import pytest

from bulkfetch.pipeline import in_hand
from bulkfetch.pipeline.in_hand import InHand

pytestmark = pytest.mark.anyio


async def waits(call) -> bool:
    """Whether `call` waits."""
    with anyio.move_on_after(0.01) as scope:
        await call()
    return scope.cancelled_caught


@pytest.mark.parametrize("size", [0, 10])
async def test_there_is_room_up_to_the_bounds(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either bound closes the way to another body, and whatever leaves opens it again."""
    monkeypatch.setattr(in_hand, "MOST_AWAITING", 99 if size else 3)
    monkeypatch.setattr(in_hand, "MOST_BYTES", 25)
    flow = InHand()
    for _ in range(3):
        assert not await waits(flow.room)
        flow.taken()
        flow.passed_on(size)
    assert await waits(flow.room)
    flow.written(size)
    if not size:
        flow.recorded(1)
    assert not await waits(flow.room)


async def test_who_waits_for_an_end_sees_each() -> None:
    """A row, a way back to the source, and a return to a worker are told apart."""
    flow = InHand()
    for _ in range(3):
        flow.taken()
        flow.passed_on()
    flow.came_back()
    assert (flow.invoices, flow.awaiting_row) == (3, 2)
    flow.ended()
    flow.recorded(2)
    assert (flow.invoices, flow.awaiting_row) == (0, 0)
    assert not await waits(flow.none)
