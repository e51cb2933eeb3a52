"""What is on its way is counted, and bounded in number and in bytes."""

import anyio
import pytest

from bulkfetch.pipeline.in_hand import MOST_AWAITING, MOST_BYTES, InHand

pytestmark = pytest.mark.anyio


async def waits(call):
    """Whether `call` has to wait."""
    with anyio.move_on_after(0.01) as scope:
        await call()
    return scope.cancelled_caught


async def test_too_many_bytes_in_memory_let_workers_wait_until_they_are_written():
    """A body that is being made durable holds its bytes: the next one is fetched only while there is room."""
    hand = InHand()
    hand.taken()
    hand.passed_on(MOST_BYTES)
    assert await waits(hand.room)
    hand.written(MOST_BYTES)
    assert not await waits(hand.room)


async def test_too_many_rows_on_their_way_let_workers_wait():
    """A disk that is behind is not given ever more to do."""
    hand = InHand()
    for _ in range(MOST_AWAITING):
        hand.taken()
        hand.passed_on()
    assert await waits(hand.room)
    hand.recorded(1)
    assert not await waits(hand.room)


async def test_none_is_in_hand_when_each_has_its_end():
    """A row, the way back to a worker and from there to the source: only an end counts."""
    hand = InHand()
    hand.taken()
    hand.taken()
    hand.passed_on()
    hand.came_back()
    assert await waits(hand.none)
    hand.ended()
    hand.passed_on()
    hand.recorded(1)
    assert not await waits(hand.none)
    assert (hand.invoices, hand.awaiting_row) == (0, 0)
