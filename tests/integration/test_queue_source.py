"""A queue as a source of a run, on a real NATS server: every message is settled once, or handed out again."""

import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from random import Random

import anyio
import pytest
from nats.js.errors import NoKeysError
from support.nats_help import admin, dead_letter, opened, stream_of, take, with_lease
from support.nats_server import nats_server

from bulkfetch.errors import FatalError, Reason, UsageError
from bulkfetch.events import Backlog, Note, OriginDown, OriginUp
from bulkfetch.models import Delivery, Malformed, Outcome, QueueStats, Row
from bulkfetch.sources.queue.message import encode_message
from bulkfetch.sources.queue.poison import MAX_DELIVERIES, SUSPECT
from bulkfetch.sources.queue.source import QueueSource

pytestmark = pytest.mark.anyio


def source_of(queue, *, limit=16, until_empty=True, idle=0.0, max_outage=30.0, events=None):
    """The source over `queue`, opened."""
    return QueueSource(
        queue,
        limit=limit,
        until_empty=until_empty,
        idle=idle,
        max_outage=max_outage,
        notify=(events if events is not None else []).append,
        utc_now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        rng=Random(0),
    ).alive()


def row_of(row, outcome=Outcome.STORED, reason=None) -> Row:
    """An account of `row`."""
    name = row.invoice_id if isinstance(row, Delivery) else row.raw
    return Row(run="r", invoice_id=name, outcome=outcome, reason=reason, started_at="", finished_at="")


async def send(queue, *bodies: bytes) -> None:
    """Queue `bodies` as they are."""
    await queue.put([(f"m{number}", body) for number, body in enumerate(bodies)])


async def handed_out(source, within=20.0) -> list:
    """All that the source hands out, each acknowledged as stored, until it ends."""
    rows = []
    with anyio.fail_after(within):
        async for batch in source.batches():
            for row in batch:
                rows.append(row)
                await source.ack(row, row_of(row))
    return rows


async def test_ids_and_json_are_read(nats) -> None:
    """A message is the bare ID, or JSON with an ID and fields; what `queue push` sends is read back as it was."""
    pushed = Delivery("A.ß", fields={"year": "2026", "note": "\u2028"})
    async with opened(nats.queue()) as queue, source_of(queue) as source:
        await send(queue, b"plain", " spaced-ä\r\n".encode(), b'{"id":"json"}', b' {"id":"f","fields":{"a":"b"}}')
        await queue.put([(pushed.invoice_id, encode_message(pushed))])
        rows = await handed_out(source)
        assert [(row.invoice_id, dict(row.fields)) for row in rows] == [
            ("plain", {}),
            ("spaced-ä", {}),
            ("json", {}),
            ("f", {"a": "b"}),
            (pushed.invoice_id, dict(pushed.fields)),
        ]
        assert not any(row.redelivered or row.final for row in rows)
        assert await queue.stats() == QueueStats(0, 0, 0)
        assert source.estimate() is None


BAD = {
    b'{"id":"A","data":{}}': Reason.INVALID_ROW,
    b'{"id":"A"': Reason.INVALID_ROW,
    b'{"id":1.5}': Reason.INVALID_ROW,
    b'["A"]': Reason.INVALID_ROW,
    b'{"fields":{}}': Reason.INVALID_ROW,
    b'{"id":' + b"[" * 20_000: Reason.INVALID_ROW,
    b"\xff\xfeA": Reason.INVALID_ROW,
    b'{"id":"\xff"}': Reason.INVALID_ROW,
    b"": Reason.INVALID_ID,
    b" \n": Reason.INVALID_ID,
    b"a/b": Reason.INVALID_ID,
    b'{"id":"../x"}': Reason.INVALID_ID,
    b"x" * 300: Reason.INVALID_ID,
    b"a\x1b[2Jb": Reason.INVALID_ID,
}


async def test_what_names_no_invoice_is_malformed_and_becomes_a_dead_letter(nats) -> None:
    """Bad JSON and bad IDs are rejected with a reason, in words that are safe to show, and put away as they were."""
    async with opened(nats.queue()) as queue, source_of(queue) as source:
        await send(queue, b"good", *BAD)
        rows = []
        async for batch in source.batches():
            for row in batch:
                if isinstance(row, Delivery):
                    await source.ack(row, row_of(row))
                    continue
                rows.append((row.tag.body, row.reason))
                assert row.raw.isprintable()
                assert len(row.raw) <= 300
                await source.ack(row, row_of(row, Outcome.REJECTED, row.reason))
        assert dict(rows) == BAD
        kept = [found async for found in queue.dead_letters()]
        # Two of them show the same: nothing.
        assert len(kept) >= len(BAD) - 1
        assert {(found.body, found.reason) for found in kept} >= {("a/b", "invalid_id"), ('["A"]', "invalid_row")}
        assert (await queue.stats()).waiting == (await queue.stats()).leased == 0


async def test_a_queue_of_strange_messages_is_refused_before_one_is_a_dead_letter(nats) -> None:
    """Where none of the first messages names an invoice, all stay where they are, untried, and the fix is named."""
    async with opened(nats.queue()) as queue, source_of(queue) as source:
        await send(queue, *BAD)
        with anyio.fail_after(20), pytest.raises(UsageError, match="none of the first messages names an invoice"):
            await anext(source.batches())
        stats = await queue.stats()
        assert (stats.waiting + stats.leased, stats.dead) == (len(BAD), 0)
        assert source.handed_out == 0


async def test_a_message_that_comes_too_often_is_poison(nats, monkeypatch) -> None:
    """The last delivery that is tried says so; the next one is put among the dead letters."""
    monkeypatch.setattr("bulkfetch.sources.queue.source.PUT_OFF", 0.0)
    async with opened(nats.queue()) as queue, source_of(queue) as source:
        await send(queue, b"A")
        rows = []
        with anyio.fail_after(40):
            async for (row,) in source.batches():
                rows.append(row)
                if isinstance(row, Malformed):
                    await source.ack(row, row_of(row, Outcome.REJECTED, row.reason))
                else:
                    await source.nack(row)
        assert [row.redelivered for row in rows[:-1]] == [False] + [True] * (MAX_DELIVERIES - 1)
        assert [row.final for row in rows[:-1]] == [False] * (MAX_DELIVERIES - 1) + [True]
        assert (rows[-1].raw, rows[-1].reason) == ("A", Reason.POISON)
        (kept,) = [found async for found in queue.dead_letters()]
        assert (kept.invoice_id, kept.reason, kept.deliveries) == ("A", "poison", MAX_DELIVERIES + 1)
        assert kept.body == "A"
        await queue.requeue(kept)
        (again,) = await handed_out(source)
        assert (again.invoice_id, again.redelivered) == ("A", False)


async def test_a_night_of_restarts_makes_no_poison(nats) -> None:
    """A worker that is refused by the API hands back what it could not try, and is started again, for as long as that
    lasts: none of it counts as a delivery, and one death in between as one."""
    url = nats.queue()
    async with opened(url) as queue:
        await send(queue, *(f"A{number}".encode() for number in range(40)))
        for lease in await take(queue, 40):
            await queue.nack(lease, 0.0)
    for _ in range(MAX_DELIVERIES + 4):
        async with opened(url) as queue, source_of(queue, until_empty=False) as source:
            batch = await anext(source.batches())
            assert {row.redelivered for row in batch} == {True}
            assert not [row for row in batch if isinstance(row, Malformed) or row.final]
            for row in batch:
                await source.release(row)
    async with opened(url) as queue, source_of(queue) as source:
        assert len(await handed_out(source)) == 40
        assert await queue.stats() == QueueStats(0, 0, 0)
        async with admin(url) as js:
            counts = await js.key_value(f"{stream_of(url)}_releases")
            with pytest.raises(NoKeysError):
                await counts.keys()


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_what_is_stored_is_done_and_what_failed_becomes_a_letter(nats, outcome) -> None:
    """With its row the message leaves the queue: a success is gone, a failure is a dead letter with its reason."""
    async with opened(nats.queue()) as queue, source_of(queue) as source:
        await send(queue, b'{"id":"A"}')
        async for (row,) in source.batches():
            await source.ack(row, row_of(row, outcome, Reason.NOT_FOUND))
        found = [(kept.invoice_id, kept.reason, kept.body, kept.run) async for kept in queue.dead_letters()]
        done = outcome in (Outcome.STORED, Outcome.SKIPPED)
        assert found == ([] if done else [("A", "not_found", '{"id":"A"}', "r")])
        assert await queue.stats() == QueueStats(0, 0, len(found))


async def test_a_slow_job_is_not_handed_out_twice(nats) -> None:
    """A lease lasts for as long as its invoice is in work, longer than its length."""
    url = nats.queue()
    await with_lease(url, 3.0)
    async with opened(url) as queue, opened(url) as other, source_of(queue) as source:
        await send(queue, b"A", b"B")
        async for batch in source.batches():
            for _ in range(5):
                assert await other.fetch(2, 0.8) == []
            for row in batch:
                await source.ack(row, row_of(row))
        assert await queue.stats() == QueueStats(0, 0, 0)


async def test_a_worker_that_dies_gives_its_messages_back(nats) -> None:
    """What a worker held when it vanished is another's when its lease has ended."""
    url = nats.queue()
    await with_lease(url, 1.0)
    async with opened(url) as other:
        await send(other, b"A", b"B")
        async with opened(url) as dying:
            assert len(await take(dying, 2)) == 2
            dying._client._transport.close()
        with anyio.fail_after(20):
            async with source_of(other) as source:
                assert sorted(row.invoice_id for row in await handed_out(source)) == ["A", "B"]


async def test_what_arrives_in_a_cancelled_fetch_is_handed_back_at_once(nats) -> None:
    """A worker that is stopped while it asks for messages leaves those that just came to the others at once,
    with leases of half a minute."""
    async with opened(nats.queue()) as queue, opened(queue.name) as other:
        for round_ in range(5):
            async with source_of(queue, until_empty=False) as source:
                batches = source.batches()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(batches.__anext__)
                    await anyio.sleep(0.05 + round_ * 0.01)
                    tasks.cancel_scope.cancel()
                    # The request stands until the server ends it: this message comes to it.
                    with anyio.CancelScope(shield=True):
                        await other.put([(f"{round_}", b"x")])
                with anyio.fail_after(15):
                    (lease,) = await take(other, 1)
                assert lease.deliveries <= 2
                await other.ack(lease)


async def test_until_empty_waits_for_what_others_hold_and_for_what_is_put_off(nats) -> None:
    """A worker does not end while another holds a message, nor while one waits out its delay; then it does."""
    async with opened(nats.queue()) as queue, opened(queue.name) as other, source_of(queue) as source:
        await send(queue, b"A", b"B")
        held, delayed = await take(other, 2)
        await other.nack(delayed, 2.5)
        rows = []

        async def work() -> None:
            rows.extend(await handed_out(source))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.sleep(0.7)
            assert rows == []
            await other.nack(held, 0.0)
        assert [row.invoice_id for row in rows] == ["A", "B"]


async def test_what_is_put_off_comes_later(nats, monkeypatch) -> None:
    """A failure that time may mend is handed back with a delay that doubles, not at once."""
    monkeypatch.setattr("bulkfetch.sources.queue.source.PUT_OFF", 0.4)
    async with opened(nats.queue()) as queue, source_of(queue) as source:
        await send(queue, b"A")
        moments = []
        async for (row,) in source.batches():
            moments.append(anyio.current_time())
            if len(moments) < 3:
                await source.nack(row)
            else:
                await source.ack(row, row_of(row))
        waits = [later - earlier for earlier, later in pairwise(moments)]
        assert waits[0] > 0.35
        assert waits[1] > 0.75


async def test_idle_is_how_long_nothing_has_been_left(nats) -> None:
    """An empty queue ends the source only after `idle` seconds; a message that comes meanwhile is worked, and the time
    begins anew."""
    async with opened(nats.queue()) as queue, source_of(queue, idle=2.0) as source:
        rows, began = [], anyio.current_time()

        async def work() -> None:
            rows.extend(await handed_out(source))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.sleep(0.5)
            await send(queue, b"A")
        assert [row.invoice_id for row in rows] == ["A"]
        assert anyio.current_time() - began > 2.4


async def test_without_until_empty_it_waits_for_more(nats) -> None:
    """A worker that is to stay does not end with an empty queue, and takes at once what comes."""
    async with opened(nats.queue()) as queue, source_of(queue, until_empty=False) as source:
        batches = source.batches()
        with anyio.move_on_after(0.7):
            await batches.__anext__()
            raise AssertionError("there was nothing")
        await send(queue, b"A")
        with anyio.fail_after(15):
            (row,) = await source.batches().__anext__()
        assert row.invoice_id == "A"


async def test_a_broker_out_of_service_for_too_long_ends_the_run(monkeypatch) -> None:
    """An outage is waited out, and told once; one that lasts longer than `max_outage` ends the run."""
    monkeypatch.setattr("bulkfetch.sources.queue.source._RETRY_PAUSE", 0.1)
    events = []
    with nats_server() as server:
        url = server.queue()
        async with opened(url) as queue, source_of(queue, until_empty=False, max_outage=30.0, events=events) as source:
            async with anyio.create_task_group() as tasks:
                batches = source.batches()
                server.kill()
                tasks.start_soon(server_back, server, 0.7)
                with anyio.fail_after(25):
                    while not any(isinstance(event, OriginUp) for event in events):
                        with anyio.move_on_after(0.2):
                            await batches.__anext__()
                        batches = source.batches()
            assert [type(event) for event in events] == [OriginDown, OriginUp]
            await send(queue, b"A")
            (row,) = await source.batches().__anext__()
            source._max_outage = 1.0
            server.kill()
            with anyio.fail_after(20), pytest.raises(FatalError, match=r"out of service for \d+ s"):
                await source.batches().__anext__()
            await source.ack(row, row_of(row))
            assert isinstance(events[-1], Note)


async def server_back(server, seconds) -> None:
    """Start it after `seconds`."""
    await anyio.sleep(seconds)
    server.start()


async def test_a_frozen_broker_is_an_outage_not_an_empty_queue(monkeypatch) -> None:
    """With `until_empty`, a broker that says nothing neither ends the source nor makes it say that all is well."""
    monkeypatch.setattr("bulkfetch.sources.queue.source._RETRY_PAUSE", 0.1)
    monkeypatch.setattr("bulkfetch.queues.jetstream.pull.GRACE", 0.5)
    monkeypatch.setattr("bulkfetch.queues.jetstream.connection._FLUSH", 0.5)
    monkeypatch.setattr("bulkfetch.queues.jetstream.connection.ANSWER_TIMEOUT", 1.0)
    events = []
    with nats_server() as server:
        async with opened(server.queue()) as queue, source_of(queue, max_outage=1.0, events=events) as source:
            server.freeze()
            try:
                with anyio.fail_after(20), pytest.raises(FatalError, match="out of service for"):
                    await handed_out(source)
            finally:
                server.thaw()
    assert [type(event) for event in events if not isinstance(event, Note)] == [OriginDown]


async def test_an_acknowledgement_that_fails_is_a_note(nats) -> None:
    """`ack` and `nack` never raise: at worst a message comes again, which is told without a secret or a line break."""
    events = []
    url = nats.queue()
    async with admin(url) as js, opened(url) as queue, source_of(queue, events=events) as source:
        await send(queue, b"A", b"B", b"C")
        (first, second, third) = await source.batches().__anext__()
        await js.delete_stream(stream_of(url))
        await js.delete_stream(f"{stream_of(url)}_dead")
        await source.ack(first, row_of(first))
        await source.ack(second, row_of(second, Outcome.FAILED, Reason.NOT_FOUND))
        await source.release(third)
        notes = [event for event in events if isinstance(event, Note)]
        assert len(notes) == 2
        assert all("was not acknowledged" in note.message for note in notes)
        assert any(isinstance(event, Backlog) for event in events)


async def test_a_queue_deleted_in_mid_run_ends_it(nats) -> None:
    """A source whose queue is gone ends with an error that names it, not with an empty queue."""
    url = nats.queue()
    async with admin(url) as js, opened(url) as queue, source_of(queue) as source:
        await js.delete_stream(stream_of(url))
        with anyio.fail_after(20), pytest.raises(FatalError, match=f"{stream_of(url)}.*not found"):
            await handed_out(source)


@asynccontextmanager
async def silent_log(caplog):
    """Nothing of the client is logged inside."""
    caplog.set_level(logging.INFO)
    yield
    assert caplog.records == []


async def test_letters_of_workers_are_requeued_while_they_work(nats, caplog) -> None:
    """A dead letter that is queued again while a worker waits is that worker's next message."""
    async with silent_log(caplog), opened(nats.queue()) as queue, source_of(queue, idle=0.3) as source:
        await send(queue, b"A")
        failed = False
        async for (row,) in source.batches():
            if failed:
                await source.ack(row, row_of(row))
                continue
            failed = True
            await source.ack(row, row_of(row, Outcome.FAILED, Reason.NOT_FOUND))
            await queue.requeue(dead_letter("A"))
        assert await queue.stats() == QueueStats(0, 0, 0)


async def test_long_rubbish_that_begins_alike_stays_apart(nats) -> None:
    """Two messages that cannot be used and look the same at their beginning become two dead letters."""
    bodies = [b"{" + b"x" * 1000 + end for end in (b"1", b"2")]
    async with opened(nats.queue()) as queue:
        await send(queue, b"good", *bodies)
        async with source_of(queue) as source:
            async for batch in source.batches():
                for row in batch:
                    bad = isinstance(row, Malformed)
                    await source.ack(row, row_of(row, Outcome.REJECTED, Reason.INVALID_ROW) if bad else row_of(row))
        dead_letters = [dead_letter async for dead_letter in queue.dead_letters()]
    assert len({dead_letter.invoice_id for dead_letter in dead_letters}) == 2
    assert sorted(dead_letter.body.encode() for dead_letter in dead_letters) == bodies


async def test_suspects_that_wait_here_are_handed_back_at_the_end(nats) -> None:
    """Of what was handed out too often one is taken up, and the others wait in the worker; when it ends, another one
    gets them at once."""
    url = nats.queue()
    async with opened(url) as queue:
        await send(queue, *(f"A{number}".encode() for number in range(5)))
        for _ in range(SUSPECT - 1):
            for lease in await take(queue, 5):
                await queue.nack(lease, 0.0)
        async with source_of(queue, until_empty=False) as source:
            batches = source.batches()
            (first,) = await anext(batches)
            assert first.redelivered
        with anyio.fail_after(15):
            assert len(await take(queue, 4)) == 4
