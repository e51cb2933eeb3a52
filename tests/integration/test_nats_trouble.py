"""A broker in trouble: whatever happens to it in mid-work, nothing is lost, and silence is not taken for emptiness."""

import asyncio
import signal
from contextlib import asynccontextmanager

import anyio
import pytest
from support.nats_help import admin, opened, stream_of, take, until, until_stats, with_lease
from support.nats_server import nats_server

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.models import QueueStats
from bulkfetch.queues.jetstream.setup import CONSUMER

pytestmark = pytest.mark.anyio


async def drain(queue, wanted, seen, errors) -> None:
    """Take and acknowledge until all of `wanted` was seen; what goes wrong meanwhile is noted."""
    with anyio.fail_after(40):
        while set(seen) < wanted:
            try:
                for lease in await queue.fetch(7, 0.2):
                    seen.append(lease.body.decode())
                    await queue.ack(lease)
            except TransientError as error:
                errors.append(error)
                await anyio.sleep(0.1)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_a_restart_of_the_server_loses_nothing(signum) -> None:
    """A server that is killed, or stopped in order, and comes back on its storage is out of reach meanwhile; then
    the work goes on, and every message was seen."""
    ids = {f"{number}" for number in range(400)}
    seen, errors, told = [], [], []
    with nats_server() as server:
        url = server.queue()
        await with_lease(url, 2.0)
        async with opened(url, notify=told.append) as queue, anyio.create_task_group() as tasks:
            await queue.put([(invoice_id, invoice_id.encode()) for invoice_id in ids])
            tasks.start_soon(drain, queue, ids, seen, errors)
            await until(lambda: len(seen) >= 100)
            server.kill(signum)
            await until(lambda: errors)
            server.start()
            await until(lambda: set(seen) == ids, within=40)
            assert len(seen) < len(ids) + 50
            await until_stats(queue, QueueStats(0, 0, 0))
        texts = [event.message for event in told]
        assert any("the connection is lost; connecting again" in text for text in texts)
        assert texts[-1].endswith("connected again")


async def test_no_request_is_kept_for_later() -> None:
    """What was asked for while the server was away is not asked for, many times over, when it is back: a worker has
    no more in hand than it can take."""
    with nats_server() as server:
        async with opened(server.queue()) as queue:
            await queue.put([(f"{number}", b"x") for number in range(50)])
            server.kill()
            for _ in range(8):
                with pytest.raises(TransientError):
                    await queue.fetch(5, 0.05)
            server.start()
            await connected_again(queue)
            await anyio.sleep(0.2)
            assert (await queue.stats()).leased == 0
            assert len(await take(queue, 5)) == 5


async def connected_again(queue) -> None:
    """Wait until it is."""
    await until(lambda: queue._client.is_connected)


async def test_an_ack_made_without_a_connection_is_sent_when_there_is_one(monkeypatch) -> None:
    """An acknowledgement in an outage fails at once, and reaches the server later all the same."""
    monkeypatch.setattr("bulkfetch.queues.jetstream.queue.ACK_TIMEOUT", 60.0)
    with nats_server() as server:
        async with opened(server.queue()) as queue:
            await queue.put([("A", b"x"), ("B", b"x")])
            leases = await take(queue, 2)
            server.kill(signal.SIGTERM)  # kill -9 may lose who was handed what, and then the server drops the ack
            await until(lambda: not queue._client.is_connected)
            with anyio.fail_after(10):
                for lease in leases:
                    with pytest.raises(TransientError):
                        await queue.ack(lease)
            server.start()
            await connected_again(queue)
            await until_stats(queue, QueueStats(0, 0, 0))


async def test_a_put_that_is_repeated_counts_its_own_as_new(monkeypatch) -> None:
    """What an attempt that failed had queued is new in the attempt that repeats it, not queued already."""
    with nats_server() as server:
        async with opened(server.queue()) as queue:
            await queue.put([("0", b"x")])
            publish, made = queue._js.publish, 0

            async def broken(*args, **named):
                nonlocal made
                made += 1
                number = made
                answer = await publish(*args, **named)
                if number % 3 == 0:
                    raise TimeoutError
                return answer

            monkeypatch.setattr(queue._js, "publish", broken)
            messages = [(f"{number}", b"x") for number in range(10)]
            with pytest.raises(TransientError):
                await queue.put(messages)
            monkeypatch.setattr(queue._js, "publish", publish)
            assert await queue.put(messages) == 9
            assert await queue.put(messages) == 0


async def test_a_frozen_server_is_noticed(monkeypatch) -> None:
    """A server that keeps its connections and says nothing is told from an empty queue by each call, and the line is
    given up after three pings; when it goes on, so does the work."""
    monkeypatch.setattr("bulkfetch.queues.jetstream.connection.PING_INTERVAL", 1.0)
    monkeypatch.setattr("bulkfetch.queues.jetstream.connection.ANSWER_TIMEOUT", 1.0)
    monkeypatch.setattr("bulkfetch.queues.jetstream.pull.GRACE", 1.0)
    with nats_server() as server:
        url = server.queue()
        await with_lease(url, 2.0)
        async with opened(url) as queue:
            await queue.put([("A", b"x")])
            server.freeze()
            for call in (lambda: queue.fetch(1, 0.2), queue.stats, lambda: queue.put([("B", b"x")])):
                with anyio.fail_after(10), pytest.raises(TransientError):
                    await call()
            await until(lambda: not queue._client.is_connected)
            server.thaw()
            await connected_again(queue)
            assert await queue.put([("A", b"x"), ("B", b"x")]) == 1
            leases = await take(queue, 2)
            for lease in leases:
                await queue.ack(lease)
            await until_stats(queue, QueueStats(0, 0, 0))


async def test_a_frozen_server_does_not_hold_up_the_end() -> None:
    """A run ends in time although the server says nothing any more."""
    with nats_server() as server:
        began = anyio.current_time()
        async with opened(server.queue()) as queue:
            await queue.put([("A", b"x")])
            await take(queue, 1)
            server.freeze()
            began = anyio.current_time()
        assert anyio.current_time() - began < 20.0
        server.thaw()


@pytest.mark.parametrize("what", ["stream", "consumer", "dead letters"])
async def test_what_is_deleted_in_mid_run_is_named(nats, what) -> None:
    """A stream or consumer that is deleted while it is in use ends the work within seconds, by name."""
    url = nats.queue()
    stream = stream_of(url)
    async with admin(url) as js, opened(url) as queue:
        await queue.put([("A", b"x"), ("B", b"x")])
        await queue.fetch(1, 0.1)

        async def delete() -> None:
            await anyio.sleep(0.3)
            match what:
                case "stream":
                    await js.delete_stream(stream)
                case "consumer":
                    await js.delete_consumer(stream, CONSUMER)
                case "dead letters":
                    await js.delete_stream(f"{stream}_dead")

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(delete)
                with pytest.raises(FatalError, match=f"{stream}.*(consumer|stream) not found; was it deleted"):
                    await until_refused(queue, what)


async def until_refused(queue, what) -> None:
    """Work, with pauses, until a FatalError."""
    while True:
        try:
            if what == "dead letters":
                assert [found async for found in queue.dead_letters()] == []
            else:
                await queue.fetch(5, 0.5)
        except TransientError:
            pass
        await anyio.sleep(0.05)


async def test_letters_of_a_deleted_stream_are_not_none(nats) -> None:
    """Reading dead letters from a stream that is gone is an error, not an empty list."""
    url = nats.queue()
    async with admin(url) as js, opened(url) as queue:
        await js.delete_stream(f"{stream_of(url)}_dead")
        with pytest.raises(FatalError, match="stream not found"):
            assert [found async for found in queue.dead_letters()] == []
        with pytest.raises((FatalError, TransientError)):
            await queue.stats()


async def test_a_server_that_ends_the_connection_for_good_is_told() -> None:
    """Where the server says that it will not have us any more, the next call ends the run with what it said."""
    with nats_server() as server:
        async with opened(server.queue()) as queue:
            await queue._client._process_err("'user authentication expired'")
            await until(lambda: queue._client.is_closed)
            with pytest.raises(FatalError, match=r"ended the connection for good .*user authentication expired"):
                await queue.fetch(1, 0.1)


@asynccontextmanager
async def no_task_left():
    """An error if what runs inside leaves a task of the client behind."""
    before = asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() <= before)


@pytest.mark.parametrize("when", ["in peace", "killed", "never there"])
async def test_the_client_leaves_nothing_behind(when) -> None:
    """When a queue is closed, no task of the client is left, whatever became of the server."""
    with nats_server() as server:
        url = server.queue()
        async with no_task_left():
            if when == "never there":
                server.kill()
                with anyio.move_on_after(0.7):
                    async with opened(url):
                        pass
                return
            async with (
                opened(url) as queue,
                queue.shared_rate("api", rate=10.0, patience=5.0, on_pause=print) as share,
            ):
                await queue.fetch(2, 0.05)
                await share.reserve()
                if when == "killed":
                    server.kill()
                    await anyio.sleep(0.1)
