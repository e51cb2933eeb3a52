"""The pool on a real archive, stopped at every kind of moment: each row ends in one place, and none in two."""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random

import anyio
import pytest
from msgspec.structs import replace
from support.doubles import GivenBody, GivenQueue, GivenSource, RecordingManifest
from support.pdfs import pdf_bytes

from bulkfetch.app.open_pipeline import open_pipeline
from bulkfetch.errors import Aborted, FatalError, PermanentError, Reason, TransientError
from bulkfetch.keys import KeyTemplate
from bulkfetch.manifest import ManifestWriter
from bulkfetch.models import Delivery, Link, Malformed, Outcome, Row
from bulkfetch.pipeline.canary import CANARY_IN_FLIGHT, CANARY_OUTCOMES
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.stop import Stop
from bulkfetch.retrying import RetryPolicy
from bulkfetch.stores import LocalStore

pytestmark = pytest.mark.anyio

WORKERS = 8
KEYS = KeyTemplate.parse("{id}.pdf")
BATCH = 9
ROWS = 70  # the last one fails and is parked: the second pass must wait for it


def clock():
    return datetime.now(UTC)


def invoice(number: int) -> str:
    return f"INV-{number:03d}"


def flaw(number: int):
    """What happens to an invoice on its tries: nothing, a failure for good, one that passes, or one that stays."""
    if number % 11 == 3:
        return PermanentError(Reason.NOT_FOUND, "no such invoice")
    if number % 13 == 5:
        return TransientError(Reason.SERVER_ERROR, "again and again")
    return None


def listed(line):
    """The row on `line` of an input in which some are repeated or malformed."""
    if line % 17 == 0:
        return Malformed("?", Reason.INVALID_ID, "no ID", line)
    return Delivery(invoice(line - 10 if line % 19 == 0 else line), line)


class Listed(GivenSource):
    """`ROWS` such rows: each is acknowledged when its row is durable, or handed back untried."""

    def __init__(self, durable, tick):
        super().__init__([listed(line) for line in range(1, ROWS + 1)], batch=BATCH)
        self._durable, self._tick = durable, tick

    async def ack(self, row, account):
        assert row.line in self._durable, "acknowledged before the row was durable"
        await super().ack(row, account)
        self._tick()

    async def nack(self, row):
        raise AssertionError("a file is not told of what is to be tried again")


class Server:
    """Both origins in memory; knows which invoices burden them, from the request for a link to the last byte."""

    def __init__(self, tick, fatal_at=0):
        self.most = self.most_before_success = self.asked = 0
        self.served = False
        self.asked_again: list[str] = []
        self.busy: set[str] = set()
        self._tick, self._fatal_at = tick, fatal_at

    async def mint(self, invoice_id, *, fresh=True):
        self.asked = number = self.asked + 1
        if not fresh:
            self.asked_again.append(invoice_id)
        self.busy.add(invoice_id)
        self.most = max(self.most, len(self.busy))
        if not self.served:
            self.most_before_success = max(self.most_before_success, len(self.busy))
        try:
            self._tick()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            if number == self._fatal_at:
                raise FatalError("the token was refused")
            if error := flaw(int(invoice_id[4:])):
                raise error
        except BaseException:
            self.busy.discard(invoice_id)
            raise
        return Link(invoice_id, 0.0, 600)

    async def open(self, link, *, last_bad_sha256=None):
        return self._body(link.url, [f"{link.url} {part}".encode() * 50 for part in range(3)])

    def _body(self, invoice_id, chunks):
        """A body of `chunks`, with a moment before each; once it is read to its end the invoice is no burden."""

        async def moment():
            self._tick()
            await anyio.lowlevel.checkpoint()

        async def end():
            self.busy.discard(invoice_id)

        body = GivenBody(*(part for chunk in chunks for part in (moment, chunk)), end)
        body.close = lambda: self.busy.discard(invoice_id)
        return body


class Moments:
    """Calls `act` at the moment numbered `at`."""

    def __init__(self, at):
        self.count, self._at = 0, at
        self.act = lambda: None

    def __call__(self):
        self.count += 1
        if self.count == self._at:
            self.act()


@asynccontextmanager
async def pool_on(root, tick, *, drain=5.0, fatal_at=0, objects=None, source=Listed):
    """A pool with its parts, on an archive in `root`; one on a queue shares it."""
    durable = set()
    source, server, stop = source(durable, tick), Server(tick, fatal_at), Stop()

    def notify(event):
        server.served = server.served or any(row.outcome is Outcome.STORED for row in getattr(event, "rows", ()))
        tick()

    async with (
        ManifestWriter.open(root, clock=clock, objects=objects, shared=source.capabilities.shared) as manifest,
        LocalStore.open(root, manifest.run) as store,
    ):
        fetcher = Fetcher(
            server, server, store, policy=RetryPolicy(attempts=2, wait_initial=1e-4, wait_max=1e-4, timeout=0),
            rng=Random(0), stopping=stop.requested.is_set, notify=notify,
        )  # fmt: skip
        pool = open_pipeline(
            manifest.run, source=source, manifest=RecordingManifest(manifest, durable), history=manifest.history,
            store=store, fetcher=fetcher, keys=KEYS, stop=stop, notify=notify, utc_now=clock,
            workers=WORKERS, drain=drain, max_failed_ratio=0.99, adopting=manifest.adopting,
            shared=source.capabilities.shared,
        )  # fmt: skip
        yield pool, source, server, stop
    (written,) = (root / "manifests").glob(f"{manifest.run}.jsonl")
    recorded = [json.loads(line)["line"] for line in written.read_bytes().splitlines()]
    assert Counter(recorded) == source.acked
    assert source.acked.keys() == durable


def account(pool, source, root):
    """Whatever happened: each row has one end, and rows and objects agree."""
    counts = pool.tally.counts(source)
    assert counts.balanced(), counts
    assert counts.read == len(source.acked)
    assert max(source.acked.values(), default=1) == max(source.nacked.values(), default=1) == 1
    assert not source.acked.keys() & source.nacked.keys()
    assert sorted(source.acked.keys() | source.nacked.keys()) == list(range(1, source.given + 1))
    assert len(list(root.glob("*.pdf"))) == counts.stored


async def test_a_whole_run_settles_every_row(tmp_path):
    """Stored, failed at once, failed in the second pass, repeated, malformed: all are counted, none is handed back."""
    tick = Moments(0)
    async with pool_on(tmp_path, tick) as (pool, source, server, stop):
        await pool.run()
    account(pool, source, tmp_path)
    assert not source.nacked
    assert pool.tally.counts(source).read == ROWS
    lines = [line for line in range(1, ROWS + 1) if line % 17 and line % 19]
    assert pool.tally.failed == sum(flaw(line) is not None for line in lines)
    assert pool.tally.retryable_failures == sum(line % 11 != 3 and line % 13 == 5 for line in lines)
    assert (pool.tally.rejected, pool.tally.skipped) == (ROWS // 17, ROWS // 19)
    assert stop.cause is None
    # How many are with the server at a time depends on how fast the disk is; that there are more after a success, not.
    assert server.most_before_success <= CANARY_IN_FLIGHT < server.most <= WORKERS


@pytest.mark.parametrize("way", ["drain", "hurry", "no drain", "fatal"])
async def test_a_stop_at_any_moment_leaves_no_row_between(tmp_path, way):
    """Whenever the stop comes: `read` is the sum of the outcomes, what has a row was acknowledged, what has none was
    handed back, once each; no object is without its row; no worker is left; the next run does the rest."""
    for moment in range(1, 300, 17):
        root, tick = tmp_path / str(moment), Moments(moment)
        async with pool_on(root, tick, drain=0.0 if way == "no drain" else 5.0) as (pool, source, server, stop):
            cause = FatalError("broken") if way == "fatal" else Aborted("stopped")

            def act(stop=stop, cause=cause):
                stop.request(cause)
                if way == "hurry":
                    stop.force()

            tick.act = act
            tasks = len(asyncio.all_tasks())
            await pool.run()
            assert len(asyncio.all_tasks()) == tasks
        account(pool, source, root)
        assert server.most <= WORKERS
        assert server.most_before_success <= CANARY_IN_FLIGHT
    assert source.acked


async def test_a_fatal_answer_charges_no_invoice(tmp_path):
    """Where one worker meets a fatal error, what the others have in hand is finished and the rest handed back."""
    for number in range(1, 66, 7):
        root = tmp_path / str(number)
        async with pool_on(root, Moments(0), fatal_at=number) as (pool, source, _, stop):
            await pool.run()
        account(pool, source, root)
        assert source.nacked
        assert "token" in str(stop.cause)


async def test_what_a_stopped_run_left_is_done_by_the_next(tmp_path):
    """Stop after stop, the runs together come to the same end as one, and store each invoice once."""
    stored = 0
    for moment in (40, 60, 80, 0):
        tick = Moments(moment)
        async with pool_on(tmp_path, tick) as (pool, source, _, stop):
            tick.act = lambda stop=stop: stop.request(Aborted("stopped"))
            await pool.run()
        assert pool.tally.counts(source).balanced()
        stored += pool.tally.stored
    assert pool.tally.counts(source).read == ROWS
    assert stored == len(list(tmp_path.glob("*.pdf")))
    assert stored == sum(flaw(line) is None for line in range(1, ROWS + 1) if line % 17 and line % 19)


async def test_a_cancelled_run_has_a_row_for_each_object(tmp_path):
    """Cancelled from outside without any drain, an object that became durable still gets its row."""
    for moment in range(1, 300, 37):
        root, tick = tmp_path / str(moment), Moments(moment)
        async with pool_on(root, tick) as (pool, source, _, _stop):
            with anyio.CancelScope() as scope:
                tick.act = scope.cancel
                await pool.run()
        assert not source.acked.keys() & source.nacked.keys()
        assert len(list(root.glob("*.pdf"))) == pool.tally.stored


LATE = invoice(67)  # the last but the one that is parked


class FailsOnceLate:
    """A store that takes every body, and then loses the object of `LATE`, once."""

    def __init__(self, inner):
        self._inner, self.cheap_head, self.failed = inner, True, False

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def put(self, key, body, *, committed, **more):
        if self.failed or not key.startswith(LATE):
            return await self._inner.put(key, body, committed=committed, **more)
        self.failed = True
        await body.gather([], 1 << 20)
        lost = TransientError(Reason.STORE_ERROR, "lost")
        asyncio.get_running_loop().call_later(0.2, committed, lost)
        return body.size


async def test_a_late_failure_of_the_store_finds_a_place_again(tmp_path):
    """An invoice that gave its place up while it was made durable, and has to be fetched again when all others are
    done, gets a place: idle workers hold none."""
    async with pool_on(tmp_path, lambda: None) as (pool, source, _server, _stop):
        late = pool._fetcher._store = FailsOnceLate(pool._fetcher._store)
        with anyio.fail_after(10.0):
            await pool.run()
    assert late.failed
    account(pool, source, tmp_path)


class Overloaded:
    """A bucket for manifests that can be listed and takes nothing."""

    def __init__(self):
        self.asked = threading.Event()

    def create(self, key, data):
        self.asked.set()
        raise TransientError(Reason.STORE_ERROR, "busy")

    def list(self, prefix, *, after=""):
        return iter(())

    def level(self, folder):
        return [], []


@pytest.mark.parametrize("way", ["hurry", "drain"])
async def test_a_stopped_run_does_not_wait_for_its_manifest(tmp_path, monkeypatch, way):
    """Rows that wait for a bucket in trouble hold up no longer than other work in hand: they go back, with no ack."""
    monkeypatch.setattr("bulkfetch.manifest.bucket_mirror.RUNNING", 40.0)
    bucket = Overloaded()
    drain = 0.2 if way == "drain" else 60.0
    async with pool_on(tmp_path, lambda: None, drain=drain, objects=bucket) as (pool, source, _server, stop):
        with anyio.fail_after(15.0):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.run)
                await anyio.to_thread.run_sync(bucket.asked.wait)
                stop.request(Aborted("stopped"))
                if way == "hurry":
                    stop.force()
    assert not source.acked
    assert set(source.nacked.values()) == {1}
    assert pool.tally.counts(source).read == 0


class Queued(GivenQueue):
    """Hands out again what comes back; each of `rows` is `(invoice ID, redelivered, final)`. From the third time on it
    has to wait until another one has fared better."""

    def __init__(self, durable, tick, rows):
        super().__init__(
            [
                Delivery(invoice_id, line, redelivered=redelivered, final=final)
                for line, (invoice_id, redelivered, final) in enumerate(rows, 1)
            ],
            batch=len(rows),
        )
        self.accounts, self.put_off, self._held = [], [], []
        self._durable, self._tick = durable, tick

    async def ack(self, row, account):
        assert row.line in self._durable, "acknowledged before the row was durable"
        await super().ack(row, account)
        self._tick()
        self.accounts.append((row.invoice_id, str(account.outcome), account.reason and str(account.reason)))
        if account.outcome is Outcome.STORED:
            self._waiting, self._held = self._waiting + self._held, []

    async def release(self, row):
        raise AssertionError("nothing comes back untried")

    async def nack(self, row):
        self.returned += 1
        self.put_off.append(row.invoice_id)
        again = replace(row, redelivered=True)
        if len(self.put_off) < 3:
            self._waiting.append(again)
        else:
            self._held.append(again)
            self._waiting.append(Delivery(invoice(1), 99))
            self._left += 1


@asynccontextmanager
async def queue_pool(root, *rows):
    """A pool on a queue of `rows`, and the API it asks."""
    async with pool_on(root, lambda: None, source=lambda durable, tick: Queued(durable, tick, rows)) as parts:
        yield parts[:3]


async def test_what_failed_goes_back_to_a_queue(tmp_path):
    """An invoice that fails is handed back for later, and again while no other is answered for; then it is given up, as
    is one that was handed out for the last time. The account adds up."""
    rows = [(invoice(5), False, False), (invoice(18), True, True)]
    async with queue_pool(tmp_path, *rows) as (pool, source, server):
        with anyio.fail_after(10.0):
            await pool.run()
    assert source.put_off == [invoice(5)] * 3
    assert sorted(source.accounts) == [
        (invoice(1), "stored", None),
        (invoice(5), "failed", "server_error"),
        (invoice(18), "failed", "server_error"),
    ]
    assert server.asked == 4 * 2 + 2 + 1
    assert pool.tally.counts(source).balanced()
    assert (pool.tally.counts(source).read, pool.tally.failed, pool.tally.stored) == (3, 2, 1)


class Returned(Queued):
    """Keeps what came back, and whether for later; hands nothing out again."""

    def __init__(self, durable, tick, rows):
        super().__init__(durable, tick, rows)
        self.came_back = {}

    async def nack(self, row):
        assert row.invoice_id not in self.came_back
        self.came_back[row.invoice_id] = True

    async def release(self, row):
        assert row.invoice_id not in self.came_back
        self.came_back[row.invoice_id] = False


async def test_only_what_may_have_met_a_bug_counts_as_tried(tmp_path):
    """Where one invoice takes the worker down, it comes back as one that failed: else it would take down one after the
    other for ever. Those that were in hand beside it come back untried."""
    rows = [(invoice(number), False, False) for number in (1, 2, 4, 6)]
    async with pool_on(
        tmp_path, lambda: None, source=lambda durable, tick: Returned(durable, tick, rows)
    ) as (pool, source, server, _):  # fmt: skip
        mint = server.mint

        async def broken(invoice_id, *, fresh=True):
            if invoice_id == invoice(2):
                raise ValueError(invoice_id)
            await mint(invoice_id)
            await anyio.sleep_forever()

        server.mint = broken
        with anyio.fail_after(10.0), pytest.raises(ExceptionGroup):
            await pool.run()
    assert source.came_back == {row[0]: row[0] == invoice(2) for row in rows}


async def test_what_no_retry_mends_is_given_up_at_once(tmp_path):
    """It does not go back to the queue."""
    async with queue_pool(tmp_path, (invoice(3), False, False)) as (pool, source, _):
        with anyio.fail_after(10.0):
            await pool.run()
    assert source.accounts == [(invoice(3), "failed", "not_found")]
    assert source.put_off == []


async def test_a_second_row_of_a_queue_is_no_duplicate(tmp_path):
    """An ID that comes twice is fetched once, and its second row says that it is stored already."""
    async with queue_pool(tmp_path, *[(invoice(1), False, False)] * 3) as (pool, source, _):
        with anyio.fail_after(10.0):
            await pool.run()
    outcomes = Counter((outcome, reason) for _, outcome, reason in source.accounts)
    assert outcomes[("stored", None)] == 1
    assert set(outcomes) <= {("stored", None), ("stored", "adopted"), ("skipped", "already_stored")}
    assert pool.tally.counts(source).balanced()
    assert pool.tally.counts(source).read == 3


async def test_what_another_worker_left_is_looked_for(tmp_path):
    """An object with another worker's row is skipped, one without a row is adopted, and neither is fetched; what is not
    there is."""
    with_row, without_row, missing = (invoice(number) for number in (1, 2, 4))
    pdf = pdf_bytes()
    async with (
        queue_pool(tmp_path, *((each, True, False) for each in (with_row, without_row, missing))) as (
            pool,
            source,
            server,
        ),
        ManifestWriter.open(tmp_path, clock=clock, shared=True) as other,
    ):
        for each in (with_row, without_row):
            await anyio.Path(tmp_path / KEYS.key_for(each, {})).write_bytes(pdf)
        await other.append(
            [
                Row(run=other.run, invoice_id=with_row, outcome=Outcome.STORED, key=KEYS.key_for(with_row, {}),
                    size=len(pdf), sha256=hashlib.sha256(pdf).hexdigest(), started_at="", finished_at="")
            ]
        )  # fmt: skip
        with anyio.fail_after(10.0):
            await pool.run()
    assert sorted(source.accounts) == [
        (with_row, "skipped", "already_stored"),
        (without_row, "stored", "adopted"),
        (missing, "stored", None),
    ]
    assert server.asked == 1


async def test_what_failed_on_a_queue_opens_no_breaker_while_it_is_alone(tmp_path):
    """What has failed in a pass of its own is asked for as such, so that it is no sign of an outage; whatever is asked
    for the first time is not."""
    comes_late = [Delivery(invoice(1), 2), Delivery(invoice(2), 3)]

    class LateRows(Queued):
        async def ack(self, row, account):
            await super().ack(row, account)
            if row.invoice_id == invoice(5):
                late, comes_late[:] = list(comes_late), []
                self._waiting += late
                self._left += len(late)

    async with pool_on(
        tmp_path, lambda: None, source=lambda durable, tick: LateRows(durable, tick, [(invoice(5), False, False)])
    ) as (pool, source, server, _):
        with anyio.fail_after(10.0):
            await pool.run()
    # Its first pass of two tries could count towards an outage, the others, until another one had fared better, not.
    assert server.asked_again == [invoice(5)] * 6
    assert sorted(name for name, outcome, _ in source.accounts if outcome == "stored") == [invoice(1), invoice(2)]


async def test_a_silent_broker_holds_up_a_batch_no_longer_than_one_row(tmp_path):
    """Rows that are settled or handed back together are told to a broker at the same time: it may be silent, and no
    stop cuts that short."""

    class Silent(Queued):
        async def ack(self, row, account):
            await anyio.sleep(0.5)
            await super().ack(row, account)

        async def release(self, row):
            await anyio.sleep(0.5)
            self.returned += 1
            self.nacked[row.line] += 1

        nack = release

    known, new = [(invoice(1), False, False)] * 20, [(invoice(number), False, False) for number in range(30, 60)]
    async with queue_pool(tmp_path, known[0]) as (pool, _, _):
        await pool.run()
    async with pool_on(tmp_path, lambda: None, source=lambda durable, tick: Silent(durable, tick, [*known, *new])) as (
        pool,
        source,
        _,
        stop,
    ):
        with anyio.fail_after(4.0):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.run)
                await anyio.sleep(0.3)
                stop.request(Aborted("stopped"))
                stop.force()
    assert pool.tally.counts(source).balanced()
    assert len(source.acked) + len(source.nacked) == len(known) + len(new)


class Rendering(Server):
    """A download host whose documents are whole PDFs, and differ each time."""

    async def open(self, link, *, last_bad_sha256=None):
        self.rendered = getattr(self, "rendered", 0) + 1
        return self._body(link.url, [pdf_bytes(text=f"{link.url} {self.rendered}")])


async def test_a_document_rendered_anew_each_time_is_stored_once(tmp_path, monkeypatch):
    """Where each download has other bytes, an ID that comes twice at once is stored by its first copy, and the second
    delivery takes that over: it is no conflict, and no dead letter."""
    monkeypatch.setattr(Server, "open", Rendering.open)
    async with queue_pool(tmp_path, *[(invoice(1), False, False)] * 3) as (pool, source, server):
        with anyio.fail_after(10.0):
            await pool.run()
    assert server.asked > 1
    assert {outcome for _, outcome, _ in source.accounts} <= {"stored", "skipped"}
    (row, *others) = [row for row in rows_in(tmp_path) if row["outcome"] == "stored"]
    assert {row["sha256"], *(other["sha256"] for other in others)} == {digest_in(tmp_path, row["key"])}
    assert pool.tally.counts(source).balanced()


async def test_a_row_of_a_lost_object_is_not_taken_for_the_new_one(tmp_path):
    """An object that was lost and fetched anew by a worker that died before its row gets a row of its own, with its own
    digest: what the old row says of the lost one is wrong of it."""
    pdf = pdf_bytes(text="rendered anew")
    async with queue_pool(tmp_path, (invoice(1), False, False)) as (pool, _, _):
        await pool.run()
    (key,) = [path.name for path in tmp_path.glob("*.pdf")]
    await anyio.Path(tmp_path / key).write_bytes(pdf)
    async with queue_pool(tmp_path, (invoice(1), True, False)) as (pool, source, _):
        with anyio.fail_after(10.0):
            await pool.run()
    assert source.accounts == [(invoice(1), "stored", "adopted")]
    assert rows_in(tmp_path)[-1]["sha256"] == digest_in(tmp_path, key)


def rows_in(root):
    """All rows, run by run."""
    manifests = sorted((root / "manifests").glob("*.jsonl"))
    return [json.loads(line) for manifest in manifests for line in manifest.read_bytes().splitlines()]


def digest_in(root, key):
    return hashlib.sha256((root / key).read_bytes()).hexdigest()


async def test_failures_that_may_be_the_runs_own_fault_go_back_to_a_queue(tmp_path):
    """Where the first twenty all fail alike the run stops, and none of them has a row or is given up: they go back."""
    hopeless = [(invoice(11 * number + 3), False, False) for number in range(40)]

    class Back(Queued):
        async def release(self, row):
            self.returned += 1
            self.nacked[row.line] += 1

        nack = release

    async with pool_on(tmp_path, lambda: None, source=lambda durable, tick: Back(durable, tick, hopeless)) as (
        pool,
        source,
        server,
        stop,
    ):
        with anyio.fail_after(10.0):
            await pool.run()
    assert "the first 20 invoices all failed" in str(stop.cause)
    assert source.accounts == []
    assert sorted(source.nacked) == list(range(1, 41))
    assert pool.tally.counts(source).read == 0
    assert server.asked < CANARY_OUTCOMES + CANARY_IN_FLIGHT


@pytest.mark.parametrize("count", [3, 25])
async def test_few_or_different_failures_are_given_up_all_the_same(tmp_path, count):
    """Failures that nothing stands against are recorded when nothing else is in hand, or when they are many and of
    several kinds; also on a queue that does not end."""
    rows = [(invoice(11 * number + 3), False, False) for number in range(count - 1)]
    async with queue_pool(tmp_path, (invoice(18), True, True), *rows) as (pool, source, _):
        with anyio.fail_after(10.0):
            await pool.run()
    assert Counter(reason for _, _, reason in source.accounts) == {"not_found": count - 1, "server_error": 1}
    assert pool.tally.counts(source).balanced()
    assert pool.tally.failed == count


async def test_a_batch_that_ends_a_worker_in_an_unforeseen_way_was_tried(tmp_path, monkeypatch):
    """Where a bug is met before anything is fetched, it may be any row of the batch."""

    def fail(self, invoice_id, fields):
        raise RuntimeError("a bug")

    monkeypatch.setattr(KeyTemplate, "key_for", fail)
    rows = [(invoice(number), False, False) for number in range(1, 4)]
    async with pool_on(tmp_path, lambda: None, source=lambda durable, tick: Returned(durable, tick, rows)) as (
        pool,
        source,
        *_,
    ):
        with anyio.fail_after(10.0), pytest.raises(ExceptionGroup):
            await pool.run()
    assert source.came_back == {row[0]: True for row in rows}


async def test_after_a_cancellation_nobody_is_asked_again(tmp_path, monkeypatch):
    """What the store could not keep comes back while a cancelled run comes to rest: it is handed back like the rest."""
    loop, given, asked = asyncio.get_running_loop(), [], []

    def give_back():
        while given:
            given.pop()(TransientError(Reason.STORE_ERROR, "the disk had a bad moment"))

    async def put(self, key, body, *, committed, **_):
        while await body.gather([], 1 << 20):
            pass
        given.append(committed)
        if asked:
            loop.call_soon(give_back)
        return 0

    monkeypatch.setattr(LocalStore, "put", put)
    tick = Moments(90)
    async with pool_on(tmp_path, tick) as (pool, source, server, _):

        def comes_back():
            assert given
            asked.append(server.asked)
            give_back()

        with anyio.CancelScope() as scope:
            tick.act = lambda: (loop.call_later(0.1, comes_back), scope.cancel())
            await pool.run()
        assert scope.cancelled_caught
        assert asked == [server.asked]
    assert sorted(source.acked.keys() | source.nacked.keys()) == list(range(1, source.given + 1))
    assert pool.tally.counts(source).balanced()
