"""The retried unit on real sockets and a real disk: mint, open and put as one, with an account of what it cost."""

import asyncio
import gc
import hashlib
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

import anyio
import pytest
from support.buckets import connected
from support.edges import CANARIES, PDF, assert_keeps_secrets, downloading, minting
from support.fault_server import CLOSE, RESET, FaultServer, fault_server, head, reply
from support.puts import settled
from support.s3_proxy import Forgetful, s3_proxy

from bulkfetch.config import Destination
from bulkfetch.errors import (
    Aborted,
    BadBody,
    BulkfetchError,
    FatalError,
    InvoiceError,
    NotReady,
    PermanentError,
    Reason,
    Refused,
    TransientError,
)
from bulkfetch.events import RetryScheduled
from bulkfetch.models import Delivery, Outcome
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.retrying import RetryPolicy
from bulkfetch.stores import LocalStore

pytestmark = pytest.mark.anyio

HTML = b"<html>Wartung</html>"
XML = b"<?xml version='1.0'?><ubl:Invoice/>"
WHOLE = reply(200, PDF, {"Content-Type": "application/pdf"})
CUT = [head(200, {"Content-Length": str(len(PDF))}) + PDF[:1000], CLOSE]


@dataclass
class Bench:
    """A fetcher with its servers, its archive and what it told."""

    api: FaultServer
    files: FaultServer
    fetcher: Fetcher
    root: object
    events: list = field(default_factory=list)
    stop: bool = False
    links: int = 0

    def grant(self, request):
        """A new link for each request, under the invoice's name."""
        self.links += 1
        name = request.target.split("/")[2]
        url = f"{self.files.url}/{name}?n={self.links}&X-Canary-Signature=c4n4ry"
        return reply(200, json.dumps({"url": url}).encode())

    async def fetch(self, invoice_id="INV-1", job=None):
        """The result or the error, and the job with its account."""
        job = job or Job(Delivery(invoice_id, 1), f"{invoice_id}.pdf")
        job.effort.begin(datetime.now(UTC), anyio.current_time())
        told = asyncio.get_running_loop().create_future()
        try:
            await self.fetcher.fetch(job, told.set_result)
            landed = await settled(await told)
        except BulkfetchError as error:
            landed = error
        if isinstance(landed, BulkfetchError):
            assert_keeps_secrets(landed)
        return landed, job

    def stored(self):
        """The objects in the archive: name → content."""
        return {path.name: path.read_bytes() for path in self.root.glob("*.pdf")}

    def quarantined(self):
        """The contents that were kept aside."""
        kept = (self.root / ".bulkfetch/quarantine").rglob("*")
        return [path.read_bytes() for path in kept if path.is_file()]


@asynccontextmanager
async def bench(tmp_path, *, attempts=5, store=None, **limits):
    policy = RetryPolicy(attempts=attempts, wait_initial=0.001, wait_max=0.01, timeout=0.0)
    async with (
        fault_server() as api,
        fault_server() as files,
        minting(api.url) as minter,
        downloading(**limits) as downloader,
        LocalStore.open(tmp_path / "archive", "run-1") as local,
    ):
        made = Bench(api, files, None, tmp_path / "archive")
        made.fetcher = Fetcher(
            minter,
            downloader,
            store(local) if store else local,
            policy=policy,
            rng=Random(1),
            stopping=lambda: made.stop,
            notify=made.events.append,
        )
        api.on("/", made.grant)
        files.on("/", WHOLE)
        yield made


async def test_from_an_id_to_an_object(tmp_path):
    """A fetch without trouble costs one link and one download, and leaves exactly the bytes under the key."""
    async with bench(tmp_path) as made:
        result, job = await made.fetch()
        assert (result.key, result.size, result.adopted) == ("INV-1.pdf", len(PDF), False)
        assert result.sha256 == hashlib.sha256(PDF).hexdigest()
        assert result.content_type == "application/pdf"
        assert (job.effort.attempts, job.effort.links) == (1, 1)
        assert made.stored() == {"INV-1.pdf": PDF}
        assert made.events == []


@pytest.mark.parametrize(
    ("answers", "attempts"),
    [
        ([CUT, WHOLE], 2),
        ([reply(500), reply(502), CUT, reply(200, XML), WHOLE], 5),
        ([reply(403), reply(404), WHOLE], 3),
        ([reply(206, PDF), WHOLE], 2),
    ],
)
async def test_every_try_asks_for_a_link_of_its_own(tmp_path, answers, attempts):
    """Mint, open and put are tried again as one: no link is used a second time, and all tries and links are counted."""
    async with bench(tmp_path) as made:
        made.files.on("/", *answers)
        result, job = await made.fetch()
        assert result.size == len(PDF)
        assert (job.effort.attempts, job.effort.links) == (attempts, attempts)
        assert len(set(made.files.targets)) == len(made.files.targets) == attempts
        assert made.stored() == {"INV-1.pdf": PDF}
        retries = [event for event in made.events if isinstance(event, RetryScheduled)]
        assert len(retries) == attempts - 1


@pytest.mark.parametrize(
    ("answer", "reason", "tries", "retryable"),
    [
        (CUT, Reason.TRUNCATED, 5, True),
        (reply(500), Reason.SERVER_ERROR, 5, True),
        (reply(200), Reason.NOT_READY, 1, True),
        (reply(403), Reason.LINK_REFUSED, 3, True),
        (reply(410), Reason.LINK_REFUSED, 3, True),
        (reply(206, PDF), Reason.BAD_RESPONSE, 2, True),
        (reply(409), Reason.NOT_READY, 1, True),
        (reply(204), Reason.NOT_READY, 1, True),
        (reply(402), Reason.BAD_RESPONSE, 1, False),
        (reply(200, HTML), Reason.NOT_READY, 1, True),
        (reply(200, XML), Reason.NOT_PDF, 5, True),
        (reply(200, PDF + b"x" * 100_000), Reason.TOO_LARGE, 1, False),
    ],
)
async def test_when_a_download_is_given_up(tmp_path, answer, reason, tries, retryable):
    """Each failure has its number of tries; the row tells them, and nothing is left under the key or half-written."""
    async with bench(tmp_path) as made:
        made.files.on("/", answer)
        error, job = await made.fetch()
        assert isinstance(error, InvoiceError)
        row = RowWriter("run-1", lambda: datetime.now(UTC)).failed(job, error)
        assert (row.outcome, row.reason, row.retryable) == (Outcome.FAILED, reason, retryable)
        assert (row.attempts, row.links) == (tries, tries)
        assert len(made.files.requests) == tries
        assert made.stored() == {}
        assert list((made.root / ".bulkfetch/tmp").rglob("*.part")) == []
        assert not [canary for canary in CANARIES if canary in repr(row)]


async def test_a_connection_without_any_answer_is_replaced_once(tmp_path):
    """aiohttp repeats an idempotent request whose connection broke: once a try, as a kept one may have been stale."""
    async with bench(tmp_path, attempts=3) as made:
        made.files.on("/", [RESET])
        error, job = await made.fetch()
        assert (error.reason, job.effort.attempts, job.effort.links) == (Reason.CONNECTION, 3, 3)
        assert len(made.files.requests) <= 2 * 3
        assert len(set(made.files.targets)) == 3


@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (reply(404), PermanentError, 1),
        (reply(409), NotReady, 1),
        (reply(200, b"{}"), NotReady, 1),
        (reply(200, b"<html>"), TransientError, 2),
        (reply(500), TransientError, 5),
        (reply(401), FatalError, 1),
    ],
)
async def test_when_no_link_is_to_be_had(tmp_path, answer, kind, tries):
    """A mint that fails costs attempts but no links, and the download host hears nothing."""
    async with bench(tmp_path) as made:
        made.api.on("/", answer)
        error, job = await made.fetch()
        assert isinstance(error, kind)
        assert (job.effort.attempts, job.effort.links) == (tries, 0)
        assert len(made.api.requests) == tries
        assert made.files.connections == 0


async def test_the_same_wrong_bytes_twice_go_to_quarantine(tmp_path):
    """A body that is no PDF and comes again as it was is kept aside whole, once, and under no key; but within moments
    that proves nothing."""
    async with bench(tmp_path) as made:
        made.files.on("/", reply(200, XML), CUT, reply(200, XML))
        error, job = await made.fetch()
        assert (type(error), error.reason) == (BadBody, Reason.NOT_PDF)
        assert error.refused == Refused(hashlib.sha256(XML).hexdigest(), len(XML))
        assert job.effort.attempts == 5
        assert made.quarantined() == [XML]
        assert made.stored() == {}


async def test_wrong_bytes_that_change_are_not_kept(tmp_path):
    """As long as the body differs each time it may be a passing trouble: nothing is quarantined, it is retryable."""
    async with bench(tmp_path) as made:
        made.files.on("/", *(reply(200, XML + b"%d" % number) for number in range(6)))
        error, job = await made.fetch()
        assert isinstance(error, TransientError)
        assert job.effort.attempts == 5
        assert made.quarantined() == []


async def test_a_second_pass_knows_the_last_wrong_body(tmp_path):
    """What the first pass saw at its end is recognised in the second, which has the full number of tries."""
    async with bench(tmp_path, attempts=1) as made:
        made.files.on("/", reply(200, XML))
        first, job = await made.fetch()
        assert (type(first), first.hold) == (BadBody, False)
        second, _ = await made.fetch(job=job)
        assert (type(second), second.hold) == (BadBody, True)
        assert (job.effort.attempts, job.effort.links) == (2, 2)


async def test_an_archived_invoice_is_never_replaced(tmp_path):
    """The same bytes again are adopted; other ones are a conflict, kept aside, and what is there stays."""
    other = PDF.replace(b"0123", b"3210")
    async with bench(tmp_path) as made:
        made.files.on("/", WHOLE, WHOLE, reply(200, other))
        assert (await made.fetch())[0].adopted is False
        assert (await made.fetch())[0].adopted is True
        error, job = await made.fetch()
        assert (type(error), error.reason) == (PermanentError, Reason.CONFLICT)
        assert job.effort.attempts == 1
        assert made.stored() == {"INV-1.pdf": PDF}
        assert made.quarantined() == [other]


class LosesTheFirst:
    """A store that takes every body, and says of the first that it could not keep it."""

    def __init__(self, store):
        self._store, self._lost = store, False

    async def put(self, key, body, *, committed, **more):
        if self._lost:
            return await self._store.put(key, body, committed=committed, **more)
        self._lost = True
        await body.gather([], 1 << 20)
        asyncio.get_running_loop().call_soon(committed, TransientError(Reason.STORE_ERROR, "lost"))
        return body.size


async def test_what_the_store_could_not_keep_is_fetched_again_and_its_tries_are_counted(tmp_path):
    """A failure that comes after the body was taken is one of the invoice's tries: the next one is the second."""
    async with bench(tmp_path, attempts=2, store=LosesTheFirst) as made:
        lost, job = await made.fetch()
        assert (type(lost), lost.reason) == (TransientError, Reason.STORE_ERROR)
        told = asyncio.get_running_loop().create_future()
        await made.fetcher.try_again(job, lost, told.set_result)
        assert (await told).size == len(PDF)
        assert (job.effort.attempts, job.effort.links, job.effort.charged) == (2, 2, 1)
        made.files.on("/", CUT)
        with pytest.raises(TransientError, match="again"):
            await made.fetcher.try_again(job, TransientError(Reason.STORE_ERROR, "lost again"), told.set_result)


async def test_no_try_begins_once_the_run_is_ending(tmp_path):
    """A failure while the run is ending hands the invoice back in place of waiting; the try under way was finished."""
    async with bench(tmp_path) as made:
        made.files.on("/", CUT)
        made.stop = True
        error, job = await made.fetch()
        assert type(error) is Aborted
        assert job.effort.attempts == 1


async def test_a_cancelled_download_leaves_nothing(tmp_path):
    """Cancelled in the middle of a body, a fetch frees its place and leaves neither object nor temporary file."""
    async with bench(tmp_path) as made:
        made.files.on("/", [head(200, {"Content-Length": "99999"}) + PDF, 30.0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.fetch)
            await made.files.asked.wait()
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        assert made.stored() == {}
        assert list((made.root / ".bulkfetch/tmp").rglob("*.part")) == []


async def test_no_secret_is_logged(tmp_path, caplog, capfd):
    """With every library at DEBUG, neither token nor link is in a log record, an event or on the terminal."""
    caplog.set_level(logging.DEBUG)
    async with bench(tmp_path) as made:
        made.files.on("/", CUT, [RESET], reply(403), reply(200, HTML), [b"garbage\r\n\r\n", CLOSE])
        await made.fetch()
        gc.collect()
    said = caplog.text + repr(made.events) + "".join(capfd.readouterr())
    said += "".join(str(path) for path in made.root.rglob("*"))
    assert not [canary for canary in CANARIES if canary in said]


async def test_a_pdf_that_is_new_each_time_and_an_answer_that_was_lost(seaweed, tmp_path):
    """Where the store took the first body without saying so and the second differs, the first is the invoice's object:
    it is no conflict, and nothing is kept aside."""
    spool, again = tmp_path / "spool", PDF.replace(b"0123", b"3210")
    async with s3_proxy(seaweed, Forgetful) as proxy:
        settings = Destination(url=f"s3://{seaweed.bucket()}/invoices", endpoint=proxy.endpoint)
        async with (
            connected(settings, seaweed, spool=spool) as store,
            bench(tmp_path, store=lambda local: store) as made,
        ):
            made.files.on("/", reply(200, PDF), reply(200, again))
            proxy.forget = True
            result, job = await made.fetch()
    assert (result.adopted, result.sha256, result.size) == (True, hashlib.sha256(PDF).hexdigest(), len(PDF))
    assert job.effort.attempts == 2
    assert not (spool / "quarantine").exists()
