"""JetStream as a queue, on a real server: what is put comes back unchanged, and no setting loses any of it."""

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType
from support.nats_help import admin, dead_config, dead_letter, opened, queue_config, stream_of, take, with_lease
from support.nats_server import nats_server

from bulkfetch.errors import FatalError
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import QueueStats
from bulkfetch.queues.jetstream.setup import CONSUMER, StreamNames

pytestmark = pytest.mark.anyio


async def test_a_missing_stream_is_refused_with_the_way_to_make_it(nats) -> None:
    """A worker of a queue that was never fed is told how to feed it."""
    with pytest.raises(FatalError, match=r"no stream invoices-\d+: feed the queue first \(bulkfetch queue push\)"):
        async with opened(nats.queue(), create=False):
            pass


async def test_a_server_without_jetstream_is_refused(monkeypatch) -> None:
    """A server that has no JetStream is not taken for one that is silent for a while."""
    monkeypatch.setattr("bulkfetch.queues.jetstream.queue._STARTING", 0.3)
    with nats_server("--jetstream=false") as server, pytest.raises(FatalError, match="nats-server -js"):
        async with opened(server.queue()):
            pass


WRONG_QUEUE = {
    "retention is not workqueue": {"retention": RetentionPolicy.LIMITS},
    "retention is not workqueue.*take another name": {"retention": RetentionPolicy.INTEREST},
    "max_age is 3600 s.*--max-age=0": {"max_age": 3600.0},
    "max_msgs or max_bytes.*discards the oldest.*--discard=new": {"max_msgs": 10, "discard": DiscardPolicy.OLD},
    "max_msgs or max_bytes.*discards": {"max_bytes": 10_000, "discard": DiscardPolicy.OLD},
    "storage is memory": {"storage": StorageType.MEMORY},
    "max_msgs_per_subject is 3.*--discard-per-subject": {"max_msgs_per_subject": 3},
    "no_ack is set": {"no_ack": True},
    r"bulkfetch\..*\.ids\.\* is not among its subjects.*--subjects='orders,bulkfetch": {"subjects": ["orders"]},
}


@pytest.mark.parametrize("words", WRONG_QUEUE)
async def test_a_stream_that_would_lose_invoices_is_refused(nats, words) -> None:
    """Each setting by which a message could vanish or stay for ever is refused, named with its fix."""
    url = nats.queue()
    async with admin(url) as js:
        changes = {"subjects": [f"orders.{stream_of(url)}"]} if "subjects" in WRONG_QUEUE[words] else WRONG_QUEUE[words]
        await js.add_stream(queue_config(url, **changes))
    told = words.replace("orders", "orders.*")
    with pytest.raises(FatalError, match=f"the stream invoices-.* cannot be used: .*{told}"):
        async with opened(url):
            pass


WRONG_DEAD = {
    "retention is not limits": {"retention": RetentionPolicy.WORK_QUEUE},
    "max_age is": {"max_age": 3600.0},
    "max_msgs or max_bytes": {"max_msgs": 5},
    "storage is memory": {"storage": StorageType.MEMORY},
    "max_msgs_per_subject": {"max_msgs_per_subject": -1},
    "discard_new_per_subject": {"discard": DiscardPolicy.NEW, "discard_new_per_subject": True},
}


@pytest.mark.parametrize("words", WRONG_DEAD)
async def test_a_stream_that_would_lose_dead_letters_is_refused(nats, words) -> None:
    """The same holds for the stream of the dead letters."""
    url = nats.queue()
    async with admin(url) as js:
        await js.add_stream(dead_config(url, **WRONG_DEAD[words]))
    with pytest.raises(FatalError, match=f"_dead cannot be used: .*{words}"):
        async with opened(url):
            pass


WRONG_CONSUMER = {
    "max_deliver is 5": {"max_deliver": 5},
    "push consumer": {"deliver_subject": "somewhere", "ack_wait": 30.0},
    "ack_wait is 0.5 s, too short": {"ack_wait": 0.5},
    "headers_only is set": {"headers_only": True},
    "backoff is set": {"backoff": [1.0, 2.0]},
    "its filter leaves out": {"filter_subject": "other.>"},
}


@pytest.mark.parametrize("words", WRONG_CONSUMER)
async def test_a_consumer_by_which_messages_get_stuck_is_refused(nats, words) -> None:
    """A consumer that would drop, hold back or hand out twice is refused, with the command that mends it."""
    url = nats.queue()
    async with admin(url) as js:
        other = f"other{stream_of(url)}.>"
        await js.add_stream(queue_config(url, subjects=[StreamNames(stream_of(url)).subjects, other]))
        changes = {"max_deliver": -1} | WRONG_CONSUMER[words]
        if "filter_subject" in changes:
            changes["filter_subject"] = other
        await js.add_consumer(
            stream_of(url), ConsumerConfig(durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, **changes)
        )
    with pytest.raises(FatalError, match=f"the consumer bulkfetch .*{words}.*nats consumer rm invoices-"):
        async with opened(url):
            pass


FINE = (
    {"num_replicas": 1, "max_bytes": 10_000_000},
    {"max_msgs": 1000, "max_msgs_per_subject": 1, "discard_new_per_subject": True},
    {"subjects": ["orders.{}", "bulkfetch.{}.ids.*"]},
    {"subjects": ["bulkfetch.{}.ids.>"]},
)


@pytest.mark.parametrize("changes", FINE)
async def test_a_stream_of_an_administrator_is_used_as_it_is(nats, changes) -> None:
    """What loses nothing is accepted, other subjects included; even there a queued ID is not queued twice."""
    url = nats.queue()
    changes = dict(changes)
    if "subjects" in changes:
        changes["subjects"] = [subject.format(stream_of(url)) for subject in changes["subjects"]]
    async with admin(url) as js:
        await js.add_stream(queue_config(url, **changes))
    async with opened(url) as queue:
        assert [await queue.put([("A", b"A")]) for _ in range(2)] == [1, 0]
        (lease,) = await take(queue, 1)
        assert await queue.put([("A", b"A")]) == 0
        await queue.ack(lease)
        assert await queue.put([("A", b"A")]) == 1


async def test_messages_on_other_subjects_of_the_stream_are_handed_out(nats) -> None:
    """A producer of its own may send IDs to a subject of its own; they can be acknowledged and become dead letters."""
    url = nats.queue()
    async with admin(url) as js:
        other = f"orders.{stream_of(url)}"
        await js.add_stream(queue_config(url, subjects=[StreamNames(stream_of(url)).subjects, other]))
        for body in (b"A", b"B"):
            await js.publish(other, body)
        async with opened(url) as queue:
            first, second = await take(queue, 2)
            assert (first.body, second.body) == (b"A", b"B")
            await queue.ack(first)
            await queue.dead(second, dead_letter("B"))
            assert await queue.stats() == QueueStats(waiting=0, leased=0, dead=1)
            await queue.requeue(dead_letter("B"))
            assert await queue.stats() == QueueStats(waiting=1, leased=0, dead=0)


@pytest.mark.parametrize("limit", [{"max_msgs": 2}, {"max_bytes": 500}])
async def test_a_full_stream_is_not_taken_for_a_queued_id(nats, limit) -> None:
    """Where a stream takes no more, `put` says so at once and names the fix: nothing is counted as queued already."""
    url = nats.queue()
    async with admin(url) as js:
        await js.add_stream(queue_config(url, **limit))
    async with opened(url) as queue:
        with anyio.fail_after(15), pytest.raises(FatalError, match=r"the stream is full .*max_msgs or max_bytes"):
            await queue.put([(f"{number}", bytes(150)) for number in range(4)])


async def test_a_body_that_is_too_large_is_told(nats) -> None:
    """A message over the server's limit is refused with that limit's name; a large one below it comes back whole."""
    async with opened(nats.queue()) as queue:
        with pytest.raises(FatalError, match="max_payload"):
            await queue.put([("A", bytes(1_100_000))])
        bodies = [(f"{number}", bytes([number]) * 900_000) for number in range(12)]
        assert await queue.put(bodies) == 12
        assert [lease.body for lease in await take(queue, 12)] == [body for _, body in bodies]


async def test_a_message_too_large_for_a_letter_becomes_one_by_its_id(nats) -> None:
    """A message that does not fit into a dead letter is put away all the same, and can be queued again by its ID."""
    async with opened(nats.queue()) as queue:
        await queue.put([("A", b'"' * 900_000)])
        (lease,) = await take(queue, 1)
        await queue.dead(lease, dead_letter("A", body=lease.body.decode()))
        (kept,) = [found async for found in queue.dead_letters()]
        assert (kept.body, await queue.stats()) == ("A", QueueStats(0, 0, 1))
        assert "too large to be kept" in (kept.message or "")


async def test_duplicates_are_told(nats) -> None:
    """Of a call's messages those count as new that were not queued; a repeated ID within the call counts once."""
    async with opened(nats.queue()) as queue:
        assert await queue.put([]) == 0
        assert await queue.put([(f"{number}", b"x") for number in range(300)]) == 300
        assert await queue.put([(f"{number}", b"y") for number in range(290, 310)]) == 10
        assert await queue.put([("twice", b"x"), ("twice", b"x")]) == 1
        assert await queue.stats() == QueueStats(waiting=311, leased=0, dead=0)


ids = st.text(min_size=1, max_size=200).filter(lambda text: check_invoice_id(text) is None)
awkward = st.sampled_from(
    ["A.b", "a*", ">", "*", "=ab", "=", "ÄÖ", "😀" * 200, "a b", "A", "a", "x" * 200, "$JS", "..a"]
)


@given(st.lists(ids | awkward, unique=True, max_size=20))
@settings(max_examples=100, deadline=None)
async def test_no_two_ids_share_a_subject(found) -> None:
    """Every ID has one subject token of its own, also where case is not told apart by whoever shows it."""
    names = StreamNames("s")
    tokens = [names.subject(invoice_id).removeprefix("bulkfetch.s.ids.") for invoice_id in found]
    assert len(set(tokens)) == len(tokens)
    for token in tokens:
        assert token.isascii() and token.isprintable() and not set(token) & set(" .*>")
        assert len(token) < 1500


@given(st.sets(ids | awkward, min_size=1, max_size=15))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_ids_of_every_kind_come_back_unchanged(nats, found) -> None:
    """Whatever an ID is made of, it is queued once and comes back as it was, also as a dead letter and again."""
    async with opened(nats.queue()) as queue:
        messages = [(invoice_id, invoice_id.encode()) for invoice_id in found]
        assert await queue.put(messages) == len(found)
        assert await queue.put(messages) == 0
        leases = await take(queue, len(found))
        assert {lease.body.decode() for lease in leases} == found
        for lease in leases:
            await queue.dead(lease, dead_letter(lease.body.decode()))
        assert {kept.invoice_id async for kept in queue.dead_letters()} == found
        for invoice_id in found:
            await queue.requeue(dead_letter(invoice_id))
        assert await queue.stats() == QueueStats(waiting=len(found), leased=0, dead=0)


async def test_deliveries_are_counted_and_stats_are_exact(nats) -> None:
    """Each hand-back is one delivery more; what waits, is in hand and was acknowledged is told apart exactly."""
    async with opened(nats.queue()) as queue:
        await queue.put([(f"{number}", b"x") for number in range(5)])
        for round_ in (1, 2, 3):
            leases = await take(queue, 5)
            assert [lease.deliveries for lease in leases] == [round_] * 5
            assert await queue.stats() == QueueStats(waiting=0, leased=5, dead=0)
            for lease in leases:
                await queue.nack(lease, 0.0)
        first, second, *_ = await take(queue, 5)
        await queue.ack(first)
        await queue.dead(second, dead_letter("1"))
        assert await queue.stats() == QueueStats(waiting=0, leased=3, dead=1)
        await queue.ack(first)
        assert await queue.stats() == QueueStats(waiting=0, leased=3, dead=1)


async def test_fetch_takes_no_more_than_asked_for_and_waits_no_longer(nats) -> None:
    """`fetch` returns what is there at once, up to its limit, and nothing after its wait; a late message wakes it."""
    async with opened(nats.queue()) as queue:
        await queue.put([(f"{number}", b"x") for number in range(5)])
        with anyio.fail_after(20):
            assert [len(await queue.fetch(limit, 60.0)) for limit in (3, 3)] == [3, 2]
            began = anyio.current_time()
            assert len(await queue.fetch(1, 0.2)) == len(await queue.fetch(7, 0.2)) == 0
            assert anyio.current_time() - began > 0.35
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late, queue)
            with anyio.fail_after(20):
                assert len(await queue.fetch(10, 60.0)) >= 1


async def late(queue) -> None:
    """Two messages, soon."""
    await anyio.sleep(0.2)
    await queue.put([("late", b"x"), ("later", b"x")])


async def test_a_delayed_hand_back_comes_after_its_delay(nats) -> None:
    """What is handed back for later does not come at once, and counts as leased meanwhile."""
    async with opened(nats.queue()) as queue:
        await queue.put([("A", b"x")])
        (lease,) = await take(queue, 1)
        began = anyio.current_time()
        await queue.nack(lease, 2.0)
        assert await queue.stats() == QueueStats(waiting=0, leased=1, dead=0)
        (again,) = await take(queue, 1)
        assert anyio.current_time() - began > 1.9
        assert again.deliveries == 2


async def test_a_lease_that_was_lost_can_be_acknowledged(nats) -> None:
    """A lease that is not extended is handed out again, and can still be acknowledged late."""
    url = nats.queue()
    await with_lease(url, 1.0)
    async with opened(url) as queue, opened(url) as other:
        assert queue.lease_seconds == 1.0
        await queue.put([("A", b"x")])
        (lease,) = await take(queue, 1)
        (again,) = await take(other, 1)
        assert again.deliveries == 2
        await queue.ack(lease)
        assert await queue.stats() == QueueStats(0, 0, 0)


async def test_a_dead_letter_is_one_however_often_it_is_put(nats) -> None:
    """The same message given up twice, as after an acknowledgement that was lost, leaves one dead letter, the last."""
    async with opened(nats.queue()) as queue:
        await queue.put([("A", b"A"), ("B", b"B")])
        first, second = await take(queue, 2)
        await queue.dead(first, dead_letter("A"))
        await queue.dead(second, dead_letter("B"))
        await queue.dead(first, dead_letter("A", reason="poison"))
        assert [(kept.invoice_id, kept.reason) async for kept in queue.dead_letters()] == [
            ("B", "not_found"),
            ("A", "poison"),
        ]
        assert await queue.stats() == QueueStats(waiting=0, leased=0, dead=2)


async def test_a_dead_letter_is_queued_again_once(nats) -> None:
    """A dead letter goes back directly after it was written, and once, even if it is asked for twice; its deliveries
    begin anew, and its message is as it was."""
    async with opened(nats.queue()) as queue:
        for round_ in range(30):
            body = f'{{"id":"A","fields":{{"n":"{round_}"}}}}'
            await queue.put([("A", body.encode())])
            (lease,) = await take(queue, 1)
            await queue.dead(lease, dead_letter("A", body=body))
            (kept,) = [found async for found in queue.dead_letters()]
            await queue.requeue(kept)
            await queue.requeue(kept)
            assert await queue.stats() == QueueStats(waiting=1, leased=0, dead=0)
            (again,) = await take(queue, 1)
            assert (again.body.decode(), again.deliveries) == (body, 1)
            await queue.ack(again)


async def test_a_letter_is_kept_while_its_message_is_not_put_away(nats, monkeypatch) -> None:
    """A dead letter whose worker died before it put the message away is not removed: the message may fail once more."""
    monkeypatch.setattr("bulkfetch.queues.jetstream.queue._SETTLING", 0.3)
    async with opened(nats.queue()) as queue:
        await queue.put([("A", b"A")])
        (lease,) = await take(queue, 1)
        async with admin(queue.name) as js:
            await js.publish(queue._names.dead_subject("A"), b"{}")
        with anyio.fail_after(20):
            await queue.requeue(dead_letter("A"))
        assert await queue.stats() == QueueStats(waiting=0, leased=1, dead=1)
        monkeypatch.setattr("bulkfetch.queues.jetstream.queue._SETTLING", 30.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.requeue, dead_letter("A"))
            await anyio.sleep(0.3)
            await queue.ack(lease)
        assert await queue.stats() == QueueStats(waiting=1, leased=0, dead=0)


async def test_letters_that_come_while_they_are_read_are_left_for_later(nats) -> None:
    """Queueing all dead letters again ends, even if each fails again at once."""
    async with opened(nats.queue()) as queue:
        await queue.put([(f"{number}", b"x") for number in range(5)])
        for number, lease in enumerate(await take(queue, 5)):
            await queue.dead(lease, dead_letter(f"{number}"))
        seen = []
        async for kept in queue.dead_letters():
            seen.append(kept.invoice_id)
            await queue.requeue(kept)
            (lease,) = await take(queue, 1)
            await queue.dead(lease, dead_letter(kept.invoice_id))
        assert seen == ["0", "1", "2", "3", "4"]
        assert (await queue.stats()).dead == 5


async def test_a_foreign_message_among_the_letters_is_told_and_passed_over(nats) -> None:
    """What is no dead letter does not hide those after it."""
    told = []
    async with opened(nats.queue(), notify=told.append) as queue:
        async with admin(queue.name) as js:
            await js.publish(queue._names.dead_subject("A"), b"what is this?")
        await queue.put([("B", b"B")])
        (lease,) = await take(queue, 1)
        await queue.dead(lease, dead_letter("B"))
        assert [kept.invoice_id async for kept in queue.dead_letters()] == ["B"]
        assert "is no dead letter" in told[0].message


async def ask_without_waiting(queue) -> None:
    """A request for one message, as one that was given up before the server ended it."""
    await queue._pull._listen()
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream_of(queue.name)}.{CONSUMER}"
    await queue._client.publish(subject, b'{"batch":1,"expires":3000000000}', f"{queue._pull._inbox}.0")
    await queue._client.flush()


async def test_what_came_after_its_request_was_given_up_is_not_lost(nats) -> None:
    """A message that arrives when nobody waits for it is in the next fetch, or another worker's when this one ends."""
    async with opened(nats.queue()) as other:
        async with opened(other.name) as queue:
            for invoice_id in ("A", "B"):
                await ask_without_waiting(queue)
                assert await other.put([(invoice_id, invoice_id.encode())]) == 1
                with anyio.fail_after(20):
                    while (await other.stats()).waiting:  # noqa: ASYNC110 - it tells nobody
                        await anyio.sleep(0.01)
                if invoice_id == "A":
                    (lease,) = await take(queue, 1)
                    assert lease.body == b"A"
                    await queue.ack(lease)
        # Its lease would last for half a minute.
        (again,) = await take(other, 1, within=15.0)
        assert (again.body, again.deliveries) == (b"B", 2)
