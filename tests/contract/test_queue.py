"""The contract of `Queue`, written against the Protocol alone: every engine passes this one suite.

An engine joins by an entry in `ENGINES` and a function that makes an `Engine` of its server.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import anyio
import pytest
from support.edges import everything_said
from support.ministack import SECRET_KEY, Ministack
from support.nats_server import NatsServer

from bulkfetch.errors import FatalError
from bulkfetch.events import Event, Listener
from bulkfetch.interfaces import Queue
from bulkfetch.models import DeadLetter, Lease, QueueStats
from bulkfetch.queues.jetstream.queue import JetStreamQueue
from bulkfetch.queues.jetstream.setup import CONSUMER
from bulkfetch.queues.sqs.queue import SqsQueue

pytestmark = pytest.mark.anyio

SHORT = 1.0
"""Seconds of a lease that a test waits out: what every engine can do."""

LONG = 30.0
PATIENCE = 20.0

Open = Callable[[str, bool, float, Listener], AbstractAsyncContextManager[Queue]]


@dataclass(frozen=True)
class Engine:
    """One implementation under test.

    `fresh` gives the URL of a queue that is not there yet; `open` opens a URL, by `create` and with leases of so many
    seconds. `secrets` are its credentials. `tells_duplicates`: an ID that is queued is not queued twice. `exact_stats`:
    the numbers are right at once.
    """

    fresh: Callable[[], str]
    open: Open
    secrets: tuple[str, ...]
    tells_duplicates: bool
    exact_stats: bool


def sqs(ministack: Ministack) -> Engine:
    def open_sqs(url: str, create: bool, lease_seconds: float, notify: Listener) -> AbstractAsyncContextManager[Queue]:
        return SqsQueue.open(url, ministack.environ, create=create, notify=notify, lease_seconds=lease_seconds)

    return Engine(
        fresh=lambda: f"sqs://{ministack.new_name()}",
        open=open_sqs,
        secrets=(SECRET_KEY,),
        tells_duplicates=False,
        # Of this server; SQS itself counts about.
        exact_stats=True,
    )


def jetstream(server: NatsServer) -> Engine:
    @contextlib.asynccontextmanager
    async def open_jetstream(url: str, create: bool, lease_seconds: float, notify: Listener) -> AsyncIterator[Queue]:
        async with JetStreamQueue.open(url, environ, create=create, notify=notify) as queue:
            if lease_seconds == queue.lease_seconds:
                yield queue
                return
            # The length of a lease is the consumer's, for all workers.
            client, stream = queue._js, url.rpartition("/")[2]
            config = (await client.consumer_info(stream, CONSUMER)).config
            await client.add_consumer(stream, config.evolve(ack_wait=lease_seconds))
        async with JetStreamQueue.open(url, environ, create=create, notify=notify) as queue:
            assert queue.lease_seconds == lease_seconds
            yield queue

    environ = {"NATS_USER": "somebody", "NATS_PASSWORD": SECRET_KEY}
    return Engine(
        fresh=server.queue,
        open=open_jetstream,
        secrets=(SECRET_KEY,),
        tells_duplicates=True,
        exact_stats=True,
    )


ENGINES = {"jetstream": "nats", "sqs": "ministack"}
"""Each engine, with the fixture that is its server."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    server = request.getfixturevalue(ENGINES[request.param])
    return jetstream(server) if request.param == "jetstream" else sqs(server)


class Opened:
    """Opens one queue, again and again if need be; what it has notified is in `events`."""

    def __init__(self, engine: Engine) -> None:
        self.url = engine.fresh()
        self.events: list[Event] = []
        self._engine = engine

    def __call__(self, lease_seconds: float = LONG, *, create: bool = True) -> AbstractAsyncContextManager[Queue]:
        return self._engine.open(self.url, create, lease_seconds, self.events.append)


@pytest.fixture
def opened(engine: Engine) -> Opened:
    return Opened(engine)


@pytest.fixture
async def queue(opened: Opened) -> AsyncIterator[Queue]:
    """A new queue with long leases."""
    async with opened() as queue:
        yield queue


def message(number: int) -> tuple[str, bytes]:
    return f"inv-{number}", f'{{"id":"inv-{number}"}}'.encode()


def messages(count: int) -> list[tuple[str, bytes]]:
    return [message(number) for number in range(count)]


def dead_letter(number: int, reason: str = "not_found") -> DeadLetter:
    return DeadLetter(
        invoice_id=f"inv-{number}",
        reason=reason,
        message="HTTP 404",
        deliveries=1,
        failed_at=f"2026-01-01T00:00:{number:02}.000Z",
        run="run-1",
        body=message(number)[1].decode(),
    )


async def fetch(queue: Queue, count: int, patience: float = PATIENCE) -> list[Lease]:
    """`count` messages, asked for until they are there."""
    found: list[Lease] = []
    with anyio.fail_after(patience):
        while len(found) < count:
            found += await queue.fetch(count - len(found), 0.5)
    return found


async def bury(queue: Queue, *numbers: int) -> None:
    """Make a dead letter of each."""
    for number in numbers:
        await queue.put([message(number)])
        (lease,) = await fetch(queue, 1)
        await queue.dead(lease, dead_letter(number))


async def listed(queue: Queue) -> list[DeadLetter]:
    return [found async for found in queue.dead_letters()]


async def settled_stats(queue: Queue, engine: Engine, expected: QueueStats) -> QueueStats:
    """What the queue counts; where it is not exact, when it has caught up."""
    stats = await queue.stats()
    with anyio.move_on_after(0 if engine.exact_stats else PATIENCE):
        while stats != expected:
            await anyio.sleep(0.2)
            stats = await queue.stats()
    return stats


async def test_what_is_put_is_handed_out_and_gone_when_acknowledged(queue: Queue, engine: Engine) -> None:
    """Every message comes out as it went in, once, and after its ack there is nothing left."""
    assert await queue.put(messages(25)) == 25
    leases = await fetch(queue, 25)
    assert sorted(lease.body for lease in leases) == sorted(body for _, body in messages(25))
    assert {lease.deliveries for lease in leases} == {1}
    for lease in leases:
        await queue.ack(lease)
    assert await settled_stats(queue, engine, QueueStats(0, 0, 0)) == QueueStats(0, 0, 0)
    assert await queue.fetch(10, 0.1) in ([], ())


async def test_an_empty_queue_is_not_waited_for_longer_than_asked(queue: Queue) -> None:
    """A fetch from an empty queue ends in about the time that was given."""
    with anyio.fail_after(15):
        assert not await queue.fetch(10, 0.5)


async def test_a_fetch_takes_no_more_than_asked(queue: Queue) -> None:
    """The limit holds, below and above what an engine gives at a time; the rest waits."""
    await queue.put(messages(40))
    assert len(await queue.fetch(3, 1.0)) == 3
    assert len(await queue.fetch(24, 1.0)) <= 24


async def test_a_body_may_hold_any_text(queue: Queue) -> None:
    """What JSON can say arrives with the same meaning."""
    said = {"id": "Ré-1", "fields": {"text": "\x00\x1b\x7f\ufffe\uffff日本 \U0001f9fe \"'\\ <&>"}}
    await queue.put([("Ré-1", json.dumps(said, ensure_ascii=False).encode())])
    (lease,) = await fetch(queue, 1)
    assert json.loads(lease.body) == said
    broken = dead_letter(1, "invalid_row")
    await queue.dead(lease, broken)
    assert await listed(queue) == [broken]


async def test_large_messages_go_together(queue: Queue) -> None:
    """Messages that would not fit into one request are all queued."""
    large = [(invoice_id, body[:-1] + b',"x":"' + b"y" * 150_000 + b'"}') for invoice_id, body in messages(10)]
    assert await queue.put(large) == 10
    assert sorted(lease.body for lease in await fetch(queue, 10)) == sorted(body for _, body in large)


async def test_an_id_that_is_queued_already(queue: Queue, engine: Engine) -> None:
    """An engine that can tells that an ID is queued; the others queue it again."""
    await queue.put([message(1)])
    assert await queue.put([message(1)]) == (0 if engine.tells_duplicates else 1)
    count = 1 if engine.tells_duplicates else 2
    assert await settled_stats(queue, engine, QueueStats(count, 0, 0)) == QueueStats(count, 0, 0)


async def test_what_is_not_acknowledged_comes_again(opened: Opened) -> None:
    """When a lease ends, the message is handed out once more, and counted."""
    async with opened(SHORT) as queue:
        await queue.put([message(1)])
        (first,) = await fetch(queue, 1)
        (second,) = await fetch(queue, 1)
        assert (first.deliveries, second.deliveries) == (1, 2)
        assert second.body == first.body


async def test_what_a_worker_held_comes_again_when_it_is_gone(opened: Opened) -> None:
    """Leases outlive nobody: what a closed queue held comes back when they end."""
    async with opened(SHORT) as queue:
        await queue.put(messages(3))
        await fetch(queue, 3)
    async with opened(SHORT, create=False) as queue:
        assert len(await fetch(queue, 3)) == 3


async def test_a_message_handed_back_comes_at_once(queue: Queue) -> None:
    """A nack without delay ends a long lease, and each time counts."""
    await queue.put([message(1)])
    for deliveries in (1, 2, 3):
        (lease,) = await fetch(queue, 1, patience=15)
        assert lease.deliveries == deliveries
        await queue.nack(lease, 0.0)


async def test_a_message_handed_back_with_a_delay_waits(queue: Queue) -> None:
    """A nack with a delay keeps the message from everybody for as long."""
    await queue.put([message(1)])
    (lease,) = await fetch(queue, 1)
    before = anyio.current_time()
    await queue.nack(lease, 2.0)
    await fetch(queue, 1)
    assert anyio.current_time() - before > 1.7


async def test_what_is_released_was_not_handed_out(queue: Queue) -> None:
    """It comes again at once, however often, and the deliveries before it count as they did."""
    await queue.put([message(1)])
    for number in range(3):
        (lease,) = await fetch(queue, 1, patience=15)
        assert lease.deliveries == 1
        assert lease.redelivered == (number > 0)
        await queue.release(lease, 0.0)
    (lease,) = await fetch(queue, 1, patience=15)
    await queue.nack(lease, 0.0)
    (lease,) = await fetch(queue, 1, patience=15)
    assert lease.deliveries == 2
    await queue.ack(lease)
    assert not await queue.fetch(1, 0.1)


async def test_what_counted_before_a_release_counts_on(queue: Queue) -> None:
    """Or what kills its workers would be tried for ever, as long as one of them is stopped now and then."""
    await queue.put([message(1)])
    for number in range(1, 4):
        (lease,) = await fetch(queue, 1, patience=3)
        assert lease.deliveries == number
        await queue.release(lease, 0.0)
        (lease,) = await fetch(queue, 1, patience=3)
        assert lease.deliveries == number
        await queue.nack(lease, 0.0)
    (lease,) = await fetch(queue, 1, patience=3)
    assert (lease.deliveries, lease.redelivered) == (4, True)


async def test_what_is_released_with_a_delay_waits(queue: Queue) -> None:
    """A delay keeps a released message from everybody, too."""
    await queue.put([message(1)])
    (lease,) = await fetch(queue, 1)
    before = anyio.current_time()
    await queue.release(lease, 2.0)
    (lease,) = await fetch(queue, 1)
    assert lease.deliveries == 1
    assert anyio.current_time() - before > 1.7


async def test_a_lease_that_is_extended_lasts(opened: Opened) -> None:
    """While its lease is extended a message is in no other hands, and then it comes again."""
    async with opened(3.0) as queue, opened(3.0) as other:
        await queue.put(messages(12))
        leases = await fetch(queue, 12)
        for _ in range(3):
            await anyio.sleep(1.1)
            await queue.extend(leases)
        assert not await other.fetch(20, 1.0)
        assert len(await fetch(other, 12)) == 12


async def test_extending_a_lease_that_has_ended_is_harmless(opened: Opened) -> None:
    """Nothing is raised, whether the message is done with or in other hands."""
    async with opened(SHORT) as queue:
        await queue.put([message(1)])
        (first,) = await fetch(queue, 1)
        (second,) = await fetch(queue, 1)
        await queue.ack(second)
        await queue.extend([first, second])
        await queue.extend([])


async def test_two_workers_never_hold_one_message(opened: Opened) -> None:
    """Two consumers that take all there is have each message once, in one of them."""
    async with opened() as one, opened() as two:
        await one.put(messages(100))
        held: dict[str, list[bytes]] = {"one": [], "two": []}

        async def take(name: str, queue: Queue) -> None:
            while leases := await queue.fetch(15, 1.0):
                held[name] += [lease.body for lease in leases]

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take, "one", one)
                tasks.start_soon(take, "two", two)
        assert sorted(held["one"] + held["two"]) == sorted(body for _, body in messages(100))


async def test_a_letter_is_forgotten_for_good(queue: Queue, engine: Engine) -> None:
    """It is gone from the list, the others stay, and nothing is queued for it."""
    await bury(queue, 1, 2)
    async for found in queue.dead_letters():
        if found.invoice_id == "inv-1":
            await queue.forget(found)
    assert [left.invoice_id for left in await listed(queue)] == ["inv-2"]
    assert await settled_stats(queue, engine, QueueStats(0, 0, 1)) == QueueStats(0, 0, 1)


async def test_a_late_ack_is_harmless(opened: Opened) -> None:
    """An ack after the lease's end, or a second one, raises nothing; the message is gone after the next good one."""
    async with opened(SHORT) as queue:
        await queue.put([message(1)])
        (first,) = await fetch(queue, 1)
        (second,) = await fetch(queue, 1)
        await queue.ack(first)
        await queue.ack(second)
        await queue.ack(second)
        await anyio.sleep(SHORT)
        assert not await queue.fetch(1, 0.5)


async def test_handing_back_late_is_harmless(opened: Opened) -> None:
    """A nack after the message was done with by another worker raises nothing, and does not bring it back."""
    async with opened(SHORT) as queue:
        await queue.put([message(1)])
        (first,) = await fetch(queue, 1)
        (second,) = await fetch(queue, 1)
        await queue.ack(second)
        await queue.nack(first, 0.0)
        assert not await queue.fetch(1, 0.5)


async def test_a_dead_letter_takes_the_place_of_its_message(queue: Queue, engine: Engine) -> None:
    """The dead letter is there word for word, and the message is gone."""
    await bury(queue, 1)
    assert await listed(queue) == [dead_letter(1)]
    expected = QueueStats(0, 0, 1)
    assert await settled_stats(queue, engine, expected) == expected


async def test_listing_takes_nothing_away(opened: Opened, engine: Engine) -> None:
    """Dead letters are listed oldest first, as often as one likes, and by others, too."""
    async with opened() as queue, opened() as other:
        await bury(queue, *range(13))
        expected = [dead_letter(number) for number in range(13)]
        assert await listed(queue) == expected
        assert await listed(queue) == expected
        assert await listed(other) == expected
        counts = QueueStats(0, 0, 13)
        assert await settled_stats(queue, engine, counts) == counts


async def test_a_listing_that_is_given_up_takes_nothing_away(opened: Opened) -> None:
    """Who stops in the middle of a listing leaves all dead letters for the next one."""
    async with opened() as queue, opened() as other:
        await bury(queue, 1, 2, 3)
        async with contextlib.aclosing(queue.dead_letters()) as dead_letters:
            assert await anext(dead_letters) == dead_letter(1)
        assert len(await listed(other)) == 3


@pytest.mark.parametrize("during", [True, False])
async def test_a_letter_that_is_queued_again_is_gone(queue: Queue, engine: Engine, during: bool) -> None:
    """While the dead letters are listed or afterwards: the message comes as it was, the other dead letters stay."""
    await bury(queue, 1, 2, 3)
    if during:
        async for found in queue.dead_letters():
            if found == dead_letter(2):
                await queue.requeue(found)
    else:
        await queue.requeue((await listed(queue))[1])
    (lease,) = await fetch(queue, 1)
    assert (lease.body, lease.deliveries) == (message(2)[1], 1)
    assert await listed(queue) == [dead_letter(1), dead_letter(3)]
    expected = QueueStats(0, 1, 2)
    assert await settled_stats(queue, engine, expected) == expected


async def test_stats_say_what_waits_and_what_is_in_work(queue: Queue, engine: Engine) -> None:
    """Waiting, leased and dead are told apart; a message that is put off is not forgotten."""
    await queue.put(messages(5))
    leases = await fetch(queue, 2)
    expected = QueueStats(3, 2, 0)
    assert await settled_stats(queue, engine, expected) == expected
    await queue.nack(leases[0], 60.0)
    stats = await settled_stats(queue, engine, expected)
    assert stats.waiting + stats.leased == 5


async def test_calls_may_be_made_from_many_tasks(queue: Queue, engine: Engine) -> None:
    """Puts, fetches and acks at the same time lose nothing."""
    done: list[bytes] = []

    async def feed(start: int) -> None:
        await queue.put([message(number) for number in range(start, start + 20)])

    async def work() -> None:
        while len(done) < 100:
            for lease in await queue.fetch(7, 0.5):
                await queue.extend([lease])
                await queue.ack(lease)
                done.append(lease.body)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(feed, 20 * number)
                tasks.start_soon(work)
    assert len(set(done)) == len(done) == 100


async def test_a_queue_that_is_not_there_is_named_with_the_fix(opened: Opened, engine: Engine) -> None:
    """Only who feeds a queue makes it; a worker is told what to do, and no secret with it."""
    with pytest.raises(FatalError, match="bulkfetch queue push") as caught:
        async with opened(create=False):
            pass
    said = everything_said(caught.value)
    assert not [secret for secret in engine.secrets if secret in said]


async def test_the_name_holds_no_secret(queue: Queue, opened: Opened, engine: Engine) -> None:
    """The name is the URL, without credentials; a quiet day brings no notes."""
    assert queue.name == opened.url
    assert not [secret for secret in engine.secrets if secret in queue.name + repr(queue)]
    assert not opened.events


async def test_a_rate_is_shared_or_there_is_none(queue: Queue) -> None:
    """Whoever opens a shared rate gets one, or learns that the engine has none."""
    async with queue.shared_rate("api", rate=100.0, patience=5.0, on_pause=lambda seconds: None) as share:
        if share is not None:
            with anyio.fail_after(5):
                await share.reserve()
