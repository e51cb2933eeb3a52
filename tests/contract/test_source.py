"""The contract of `Source`, written against the Protocol alone: files, queues and the tests' own doubles pass this one
suite."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import anyio
import pytest
from support.doubles import GivenQueue, GivenSource
from support.ministack import Ministack
from support.nats_server import NatsServer

from bulkfetch.errors import Reason
from bulkfetch.interfaces import Source
from bulkfetch.models import Delivery, InputRow, Malformed, Outcome, Row
from bulkfetch.queues import open_queue
from bulkfetch.sources import open_source
from bulkfetch.sources.queue.message import encode_message
from bulkfetch.sources.queue.source import QueueSource

pytestmark = pytest.mark.anyio

BROKEN = "no such/id"
LIMIT = 16
PATIENCE = 20.0

Given = Callable[[Sequence[str], Path], AbstractAsyncContextManager[Source]]


@asynccontextmanager
async def text_file(ids: Sequence[str], folder: Path) -> AsyncIterator[Source]:
    file = folder / "ids.txt"
    file.write_text("".join(f"{invoice_id}\n" for invoice_id in ids))
    yield await anyio.to_thread.run_sync(open_source, str(file))


@asynccontextmanager
async def jsonl_file(ids: Sequence[str], folder: Path) -> AsyncIterator[Source]:
    file = folder / "ids.jsonl"
    file.write_text("".join(json.dumps({"id": invoice_id, "year": "2024"}) + "\n" for invoice_id in ids))
    yield await anyio.to_thread.run_sync(open_source, str(file))


@asynccontextmanager
async def of_queue(url: str, environ: Mapping[str, str]) -> AsyncIterator[Source]:
    async with (
        open_queue(url, environ, notify=lambda _: None) as queue,
        QueueSource(
            queue,
            limit=LIMIT,
            until_empty=True,
            idle=0.0,
            max_outage=PATIENCE,
            notify=lambda _: None,
            utc_now=lambda: datetime.now(UTC),
            rng=Random(0),
        ).alive() as source,
    ):
        yield source


def queue(url: Callable[[], str], environ: Mapping[str, str]) -> Given:
    @asynccontextmanager
    async def given(ids: Sequence[str], folder: Path) -> AsyncIterator[Source]:
        name = url()
        messages = [(invoice_id, encode_message(Delivery(invoice_id, fields={"year": "2024"}))) for invoice_id in ids]
        async with open_queue(name, environ, notify=lambda _: None, create=True) as fed:
            await fed.put(messages)
        async with of_queue(name, environ) as source:
            yield source

    return given


def double(kind: type[GivenSource]) -> Given:
    @asynccontextmanager
    async def given(ids: Sequence[str], folder: Path) -> AsyncIterator[Source]:
        yield kind(
            [
                Malformed(invoice_id, Reason.INVALID_ID, "no invoice ID", line)
                if invoice_id == BROKEN
                else Delivery(invoice_id, line)
                for line, invoice_id in enumerate(ids, 1)
            ]
        )

    return given


@dataclass(frozen=True)
class Kind:
    """One implementation under test; `fields` are what each of its rows carries."""

    given: Given
    fields: Mapping[str, str]


@pytest.fixture(params=["txt", "jsonl", "jetstream", "sqs", "double", "double of a queue"])
def kind(request: pytest.FixtureRequest, nats: NatsServer, ministack: Ministack) -> Kind:
    fields = {"year": "2024"}
    return {
        "double": Kind(double(GivenSource), {}),
        "double of a queue": Kind(double(GivenQueue), {}),
        "txt": Kind(text_file, {}),
        "jsonl": Kind(jsonl_file, fields),
        "jetstream": Kind(queue(nats.queue, {}), fields),
        "sqs": Kind(queue(lambda: f"sqs://{ministack.new_name()}", ministack.environ), fields),
    }[request.param]


def account(row: InputRow, outcome: Outcome = Outcome.STORED) -> Row:
    invoice_id = row.raw if isinstance(row, Malformed) else row.invoice_id
    return Row(run="run-1", invoice_id=invoice_id, outcome=outcome, started_at="", finished_at="", line=row.line)


def named(row: InputRow) -> str:
    return "?" if isinstance(row, Malformed) else row.invoice_id


async def taken(source: Source) -> list[InputRow]:
    """Every row, each acknowledged as it comes."""
    rows = []
    with anyio.fail_after(PATIENCE):
        async for batch in source.batches():
            assert 0 < len(batch) <= 64 * 1024
            for row in batch:
                rows.append(row)
                await source.ack(row, account(row))
    return rows


async def test_every_row_is_handed_out_with_its_fields_and_then_it_ends(kind, tmp_path):
    """Each row comes, with what else the input says of it; what was acknowledged does not come again."""
    ids = [f"inv-{number}" for number in range(100)]
    async with kind.given(ids, tmp_path) as source:
        rows = await taken(source)
        assert sorted(map(named, rows)) == sorted(ids)
        assert all(dict(row.fields) == kind.fields for row in rows)
        assert not any(row.redelivered or row.final for row in rows)
        assert source.estimate() == (None if source.capabilities.comes_again else len(ids))
        if source.capabilities.comes_again:
            assert await taken(source) == []


async def test_a_row_that_names_no_invoice_is_handed_out_as_such(kind, tmp_path):
    """It can be acknowledged like any other, and those beside it come."""
    async with kind.given(["a", BROKEN, "b"], tmp_path) as source:
        rows = await taken(source)
    assert sorted(map(named, rows)) == ["?", "a", "b"]
    (broken,) = [row for row in rows if isinstance(row, Malformed)]
    assert broken.reason is Reason.INVALID_ID
    assert BROKEN in broken.raw
    assert broken.message


async def test_nothing_in_it_is_no_batch(kind, tmp_path):
    """An empty input ends at once."""
    async with kind.given([], tmp_path) as source:
        assert await taken(source) == []


async def test_what_is_handed_back_comes_again_from_a_queue(kind, tmp_path):
    """Until it is acknowledged a row of a queue comes again, and says so; a file's does not while it is read."""
    async with kind.given(["a"], tmp_path) as source:
        seen = []
        with anyio.fail_after(PATIENCE):
            async for batch in source.batches():
                for row in batch:
                    seen.append(row)
                    await (source.release(row) if len(seen) == 1 else source.ack(row, account(row)))
    assert [row.redelivered for row in seen] == ([False, True] if source.capabilities.comes_again else [False])


async def test_a_failure_leaves_the_input(kind, tmp_path):
    """What failed for good is accounted for, and does not come again."""
    async with kind.given(["a"], tmp_path) as source:
        with anyio.fail_after(PATIENCE):
            rows = []
            async for batch in source.batches():
                for row in batch:
                    rows.append(row)
                    await source.ack(row, account(row, Outcome.FAILED))
        assert len(rows) == 1
