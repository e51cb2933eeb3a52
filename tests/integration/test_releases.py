"""The count of what workers hand back untried, on a real NATS server: what is lost or left over of it does no harm."""

import pytest
from support.nats_help import admin, opened, stream_of, take, with_lease
from support.nats_server import nats_server

from bulkfetch.errors import FatalError
from bulkfetch.queues.jetstream.releases import ReleaseCounter
from bulkfetch.queues.jetstream.setup import CONSUMER

pytestmark = pytest.mark.anyio

RIGHTS = """
jetstream: {}
authorization { users = [
  { user: admin, password: a }
  { user: worker, password: w, permissions: { publish: { deny: ["%s"] } } }
] }
"""


async def release(queue, times: int) -> list[int]:
    """Lease the one message and release it, `times` times; which delivery each one was."""
    seen = []
    for _ in range(times):
        (lease,) = await take(queue, 1)
        seen.append(lease.deliveries)
        await queue.release(lease, 0.0)
    return seen


async def test_a_bucket_deleted_in_mid_run_is_made_anew(nats) -> None:
    """What it held is lost, so those deliveries count from there on; what is released later does not."""
    url = nats.queue()
    async with admin(url) as js, opened(url) as queue:
        await queue.put([("A", b"A")])
        assert await release(queue, 2) == [1, 1]
        await js.delete_key_value(f"{stream_of(url)}_releases")
        assert await release(queue, 3) == [3, 3, 3]


@pytest.mark.parametrize("anew", ["stream", "consumer"])
async def test_counts_from_before_the_queue_was_made_anew_are_of_other_messages(nats, anew) -> None:
    """A stream, or a consumer, that was made anew counts from the start: a count that is left over hides no death."""
    url = nats.queue()
    async with admin(url) as js:
        async with opened(url) as queue:
            await queue.put([("A", b"A")])
            await release(queue, 5)
        if anew == "stream":
            await js.delete_stream(stream_of(url))
        else:
            await js.delete_consumer(stream_of(url), CONSUMER)
        async with opened(url) as queue:
            await queue.put([("A", b"A")])
            for number in range(1, 9):
                (lease,) = await take(queue, 1)
                assert lease.deliveries == number
                await queue.nack(lease, 0.0)


async def test_two_workers_that_hold_a_message_both_give_it_back(nats) -> None:
    """The lease of one of them had ended: neither's delivery counts."""
    url = nats.queue()
    await with_lease(url, 1)
    async with opened(url) as queue, opened(url) as other:
        await queue.put([("A", b"A")])
        (first,) = await take(queue, 1)
        (second,) = await take(other, 1)
        assert (first.deliveries, second.deliveries) == (1, 2)
        await queue.release(first, 0.0)
        await other.release(second, 0.0)
        (third,) = await take(queue, 1)
        assert third.deliveries == 1
        await queue.ack(third)


async def test_a_count_that_could_not_be_read_is_not_replaced(nats, monkeypatch) -> None:
    """A broker that is slow once makes one delivery of a message too few, and does not forget the others."""

    async def unknown(self: ReleaseCounter, sequence: int) -> None:
        """No answer."""

    async with opened(nats.queue()) as queue:
        await queue.put([("A", b"A")])
        for _ in range(4):
            (lease,) = await take(queue, 1)
            await queue.nack(lease, 0.0)
        with monkeypatch.context() as patched:
            patched.setattr(ReleaseCounter, "count", unknown)
            assert await release(queue, 1) == [1]
        (lease,) = await take(queue, 1)
        assert lease.deliveries == 5


@pytest.mark.parametrize("denied", ["$JS.API.STREAM.*.KV_{}_releases", "$KV.{}_releases.>"])
async def test_who_may_not_count_takes_no_message(denied) -> None:
    """A worker without the rights on the bucket ends before it holds anything: else it would end again and again with
    whatever came a second time."""
    with nats_server(config=RIGHTS % denied.format("invoices-1")) as server:
        url = server.queue()
        async with opened(url, {"NATS_USER": "admin", "NATS_PASSWORD": "a"}) as queue:
            await queue.put([("A", b"A")])
            async with opened(url, {"NATS_USER": "worker", "NATS_PASSWORD": "w"}) as worker:
                with pytest.raises(
                    FatalError, match=r"count of releases \(invoices-1_releases\).*permissions violation"
                ):
                    await worker.fetch(1, 0.5)
            assert (await queue.stats()).waiting == 1
