"""Documents that are not ready yet, in the pool on a real archive: waited for beside the others, or handed back."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random

import anyio
import pytest
from support.doubles import GivenBody, GivenQueue, GivenSource
from support.pdfs import pdf_bytes

from bulkfetch.app.open_pipeline import open_pipeline
from bulkfetch.errors import Aborted, BadBody, NotReady, Reason, Refused
from bulkfetch.events import RowsRecorded
from bulkfetch.keys import KeyTemplate
from bulkfetch.manifest import ManifestWriter
from bulkfetch.models import Delivery, Link
from bulkfetch.pipeline import not_ready
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.stop import Stop
from bulkfetch.retrying import RetryPolicy
from bulkfetch.stores import LocalStore

pytestmark = pytest.mark.anyio

WAIT = 0.05
PAGE = Refused("ab" * 32, 3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(not_ready, "FIRST_WAIT", WAIT)
    monkeypatch.setattr(not_ready, "LEAST_WAIT", WAIT)


class Server:
    """Both origins: `late` says how often an invoice is not ready."""

    def __init__(self, late, refused=None):
        self.asked, self.stored = [], []
        self._late, self._refused = dict(late), refused

    async def mint(self, invoice_id, *, fresh=True):
        self.asked.append(invoice_id)
        return Link(invoice_id, 0.0, 600)

    async def open(self, link, *, last_bad_sha256=None):
        left = self._late.get(link.url, 0)
        self._late[link.url] = left - 1
        if left > 0:
            error = BadBody if self._refused else NotReady
            raise error(Reason.NOT_PDF if self._refused else Reason.NOT_READY, "not yet", refused=self._refused)
        return GivenBody(pdf_bytes(900, link.url))


class Rows(list):
    """The rows recorded so far."""

    def __init__(self):
        super().__init__()
        self.first = anyio.Event()


@asynccontextmanager
async def pool_on(root, server, source, *, workers=1):
    stop, rows = Stop(), Rows()

    def notify(event):
        if isinstance(event, RowsRecorded):
            rows.extend(event.rows)
            rows.first.set()

    async with (
        ManifestWriter.open(root, clock=lambda: datetime.now(UTC), shared=source.capabilities.shared) as manifest,
        LocalStore.open(root, manifest.run) as store,
    ):
        fetcher = Fetcher(
            server, server, store, policy=RetryPolicy(attempts=1, wait_initial=1e-4, wait_max=1e-4, timeout=0),
            rng=Random(0), stopping=stop.requested.is_set, notify=notify,
        )  # fmt: skip
        pool = open_pipeline(
            manifest.run, source=source, manifest=manifest, history=manifest.history, store=store, fetcher=fetcher,
            keys=KeyTemplate.parse("{id}.pdf"), stop=stop, notify=notify, utc_now=lambda: datetime.now(UTC),
            workers=workers, drain=5.0, max_failed_ratio=0.99, adopting=False, wait_max=0.0,
            shared=source.capabilities.shared,
        )  # fmt: skip
        yield pool, stop, rows


def listed(*ids):
    return GivenSource([Delivery(invoice_id, line) for line, invoice_id in enumerate(ids, 1)])


async def test_others_go_on_while_an_invoice_waits(tmp_path):
    """One worker does all others first, and then what has become ready; no try was charged for the waiting."""
    server, source = Server({"A": 3}), listed("A", "B", "C", "D")
    async with pool_on(tmp_path, server, source) as (pool, _, rows):
        with anyio.fail_after(20):
            await pool.run()
    assert server.asked == ["A", "B", "C", "D", "A", "A", "A"]
    assert {row.invoice_id: (row.outcome, row.attempts) for row in rows}["A"] == ("stored", 4)
    assert pool.tally.counts(source).balanced()


async def test_what_is_never_ready_fails_for_now(tmp_path):
    """After three waits it is asked for once more at the end, when all others are done; then it fails, retryable."""
    server, source = Server({"A": 99}), listed("A", "B")
    async with pool_on(tmp_path, server, source) as (pool, _, rows):
        with anyio.fail_after(20):
            await pool.run()
    (row,) = (row for row in rows if row.invoice_id == "A")
    assert (row.outcome, row.reason, row.retryable, row.attempts) == ("failed", "not_ready", True, 5)
    assert rows[-1] is row
    assert pool.tally.counts(source).balanced()


async def test_a_stop_hands_back_what_waits(tmp_path, monkeypatch):
    """It has no row, and is not waited for."""
    monkeypatch.setattr(not_ready, "FIRST_WAIT", 60.0)
    server, source = Server({"A": 99, "B": 99}), listed("A", "B", "C")
    async with pool_on(tmp_path, server, source) as (pool, stop, rows):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.run)
            with anyio.fail_after(20):
                await rows.first.wait()
            stop.request(Aborted("stopped"))
        assert len(asyncio.all_tasks()) <= 2
    assert [row.invoice_id for row in rows] == ["C"]
    assert source.nacked == {1: 1, 2: 1}
    assert pool.tally.counts(source).balanced()


async def test_a_queue_gets_it_back_untried(tmp_path):
    """It is released with its delay, which counts as no delivery, and fails for now when the patience is used up."""
    server, source = Server({"A": 2, "B": 99}), GivenQueue([Delivery("A", 1), Delivery("B", 2)])
    async with pool_on(tmp_path, server, source) as (pool, _, rows):
        with anyio.fail_after(20):
            await pool.run()
    assert {row.invoice_id: (row.outcome, row.reason) for row in rows}["A"] == ("stored", None)
    assert source.delays.count(WAIT) == 2 + 3
    assert pool.tally.counts(source).balanced()


async def test_only_the_same_bytes_in_another_run_are_final(tmp_path):
    """The same bytes twice in a run fail it for now; in a later run they are the server's last word; others are not."""
    outcomes = []
    for refused in (PAGE, PAGE, Refused("cd" * 32, 3)):
        async with pool_on(tmp_path, Server({"A": 99}, refused), listed("A", "B")) as (pool, _, rows):
            with anyio.fail_after(20):
                await pool.run()
        (row,) = (row for row in rows if row.invoice_id == "A")
        outcomes.append((row.reason, row.retryable, row.sha256, row.size))
    assert outcomes == [
        ("not_pdf", True, PAGE.sha256, 3),
        ("not_pdf", False, PAGE.sha256, 3),
        ("not_pdf", True, "cd" * 32, 3),
    ]
