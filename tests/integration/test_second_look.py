"""What a store has said yes to is looked at once more: by few requests, and what is lost comes back or is told."""

from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from support.bucket_archive import PREFIX, content, machine, manifests, objects
from support.buckets import connected
from support.program import bulkfetch, ids_of, pdf_of, sandbox, write_ids
from support.s3_proxy import S3Proxy, s3_error, s3_proxy
from support.seaweed import Seaweed

from bulkfetch.config import Destination
from bulkfetch.models import Outcome, Reason
from bulkfetch.stores.bucket import look

OWN = {f"INV-{number:04}.pdf": 3 for number in range(40)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pages of the size of a test, and no long doubts."""
    monkeypatch.setattr(look, "DOUBTS", (0.01, 0.02))


@asynccontextmanager
async def looking(seaweed: Seaweed, spool: Path, others: int = 0, kind: type[S3Proxy] = S3Proxy):
    """A store with `OWN` in it and `others` of other runs between them, behind a proxy."""
    bucket = seaweed.bucket()
    names = [*OWN, *(f"INV-{number % 40:04}-{number}.pdf" for number in range(others))]
    for name in names:
        seaweed.request("PUT", f"/{bucket}/{PREFIX}/{name}", {}, body=b"pdf")
    async with s3_proxy(seaweed, kind) as proxy:
        settings = Destination(url=f"s3://{bucket}/{PREFIX}", endpoint=proxy.endpoint)
        async with connected(settings, seaweed, spool=spool) as store:
            proxy.seen.clear()
            yield proxy, store, partial(seaweed.request, "DELETE", query={}), bucket


def asked(proxy: S3Proxy) -> Counter[str]:
    return Counter(method for method, _ in proxy.seen)


@pytest.mark.anyio
async def test_what_lies_together_is_listed(seaweed, tmp_path, monkeypatch):
    """Objects that fill a tenth of a listing or more cost one request a page, and only what is not listed as it should
    be is asked for by itself, more than once."""
    monkeypatch.setattr(look, "PAGE", 100)
    async with looking(seaweed, tmp_path, others=250) as (proxy, store, delete, bucket):
        assert await store.find_lost(OWN) == {}
        assert asked(proxy) == {"GET": 3}
        delete(f"/{bucket}/{PREFIX}/INV-0007.pdf")
        proxy.seen.clear()
        lost = await store.find_lost({**OWN, "INV-0009.pdf": 4, "z.pdf": 1})
    assert lost == {"INV-0007.pdf": None, "INV-0009.pdf": 3, "z.pdf": None}
    assert asked(proxy) == {"GET": 3, "HEAD": 9}


@pytest.mark.anyio
async def test_what_lies_apart_is_asked_for(seaweed, tmp_path, monkeypatch):
    """Objects that fill less than a tenth of a listing are asked for one by one, and a listing is tried ever less."""
    monkeypatch.setattr(look, "PAGE", 100)
    few = {key: size for number, (key, size) in enumerate(OWN.items()) if number % 2}
    async with looking(seaweed, tmp_path, others=440) as (proxy, store, _, _bucket):
        for _ in range(8):
            assert await store.find_lost(few) == {}
    assert asked(proxy)["GET"] == 3
    assert 7 * len(few) < asked(proxy)["HEAD"] < 8 * len(few)


@pytest.mark.anyio
async def test_few_objects_are_never_listed(seaweed, tmp_path):
    """Fewer than a tenth of a page can fill no tenth of it."""
    async with looking(seaweed, tmp_path) as (proxy, store, _, _bucket):
        assert await store.find_lost(OWN) == {}
    assert asked(proxy) == {"HEAD": len(OWN)}


@pytest.mark.anyio
@pytest.mark.parametrize("status", [403, 405, 501])
async def test_where_single_objects_may_not_be_asked_for_they_are_listed(seaweed, tmp_path, status):
    """A refused HEAD is no loss: a listing tells as well."""
    async with looking(seaweed, tmp_path) as (proxy, store, delete, bucket):
        proxy.head_answers = [partial(web.Response, status=status)] * 100
        delete(f"/{bucket}/{PREFIX}/INV-0007.pdf")
        assert await store.find_lost(OWN) == {"INV-0007.pdf": None}


@pytest.mark.anyio
async def test_a_cache_and_an_outage_lose_nothing(seaweed, tmp_path):
    """An object that is not known of at once, and a store that fails for a moment, are asked again."""
    async with looking(seaweed, tmp_path) as (proxy, store, _, _bucket):
        proxy.head_answers = [partial(web.Response, status=status) for status in (404, 500, 404, 503)]
        assert await store.find_lost(OWN) == {}
    assert asked(proxy) == {"HEAD": len(OWN) + 4}


class Losing(S3Proxy):
    """Says yes to the put of a PDF and keeps nothing of it, as often for each key as `loses` says."""

    loses: Callable[[str], int] = staticmethod(lambda _: 0)

    async def handle(self, request: web.Request) -> web.Response:
        if request.method == "PUT" and request.path.endswith(".pdf"):
            before = sum(path == request.raw_path for _, path in self.seen if _ == "PUT")
            if before < self.loses(request.path):
                self.seen.append((request.method, request.raw_path))
                await request.read()
                return web.Response(headers={"ETag": '"not-an-md5"'})
        return await super().handle(request)


class Wrong(Losing):
    """Says yes with an error in the body."""

    async def handle(self, request: web.Request) -> web.Response:
        answer = await super().handle(request)
        if answer.headers.get("ETag") == '"not-an-md5"':
            answer = s3_error(200, "InternalError")()
        return answer


def run_on(seaweed, tmp_path, kind, loses, *, invoices=40, bucket="", home="one"):
    """A run through a proxy that loses objects: its end, the rows, the last summary, the bucket and what belongs in."""
    bucket = bucket or seaweed.bucket()
    with sandbox(invoices=invoices) as served, start_blocking_portal() as portal:
        args = ("run", write_ids(tmp_path / "ids.txt", ids_of(served)), "--to", f"s3://{bucket}/{PREFIX}")
        args += ("--api-url", served.api_url, "--workers", 8)
        with portal.wrap_async_context_manager(s3_proxy(seaweed, kind)) as proxy:
            proxy.loses = loses
            environ = machine(seaweed, tmp_path / home) | {"AWS_ENDPOINT_URL": proxy.endpoint}
            done = bulkfetch(*args, **environ)
        expected = {f"{each}.pdf": pdf_of(served, each) for each in ids_of(served)}
    rows, summaries = manifests(seaweed, bucket)
    return done, rows, summaries[max(summaries)], bucket, expected


@pytest.mark.parametrize("kind", [Losing, Wrong])
def test_what_is_lost_comes_back_in_the_same_run(seaweed, tmp_path, kind):
    """Objects that the store took and lost are fetched again: exit 0, all there; where a row had said `stored` already
    a correction row names it, which is counted apart."""
    done, rows, summary, bucket, expected = run_on(
        seaweed, tmp_path, kind, lambda path: path.endswith(("3.pdf", "7.pdf"))
    )
    assert done.returncode == 0, done.stderr
    assert {key: content(seaweed, bucket, key) for key in objects(seaweed, bucket)} == expected
    corrections = [row for row in rows if isinstance(row.corrects, int)]
    lost = sum(key.endswith(("3.pdf", "7.pdf")) for key in expected)
    assert len(corrections) == (lost if kind is Losing else 0)
    for row in corrections:
        before = rows[row.corrects]
        assert (row.outcome, row.key, row.sha256, row.line) == (Outcome.STORED, before.key, before.sha256, before.line)
    assert (summary["counts"]["stored"], summary["corrected"]) == (40, len(corrections))
    assert len(rows) == 40 + len(corrections)


def test_what_is_lost_again_is_a_failure(seaweed, tmp_path):
    """An object that the store loses each time makes no complete run: its correction row says `failed`, retryable."""
    done, rows, summary, bucket, expected = run_on(seaweed, tmp_path, Losing, lambda path: 9 * path.endswith("3.pdf"))
    assert done.returncode == 4, done.stderr
    lost = {key for key in expected if key.endswith("3.pdf")}
    assert set(objects(seaweed, bucket)) == expected.keys() - lost
    corrections = [row for row in rows if isinstance(row.corrects, int)]
    assert {row.key for row in corrections} == lost
    assert {(row.outcome, row.reason, row.retryable) for row in corrections} == {
        (Outcome.FAILED, Reason.STORE_ERROR, True)
    }
    assert (summary["counts"]["stored"], summary["counts"]["failed"]) == (40 - len(lost), len(lost))


def test_a_store_that_keeps_nothing_stops_the_run(seaweed, tmp_path):
    """Where most of what was put is lost, nothing is fetched again: exit 5, and no row is left that says `stored`."""
    done, rows, summary, _, _ = run_on(seaweed, tmp_path, Losing, lambda path: 9)
    assert done.returncode == 5, done.stderr
    assert "does not have" in done.stderr
    assert summary["counts"]["stored"] == 0
    corrected = {row.corrects for row in rows if isinstance(row.corrects, int)}
    assert {position for position, row in enumerate(rows) if row.outcome is Outcome.STORED} == corrected


def test_the_next_run_fetches_what_was_lost(seaweed, tmp_path):
    """After a run that could not mend a loss, the same command does, also on another machine."""
    done, _, _, bucket, expected = run_on(seaweed, tmp_path, Losing, lambda _: 9, invoices=4)
    assert done.returncode == 4, done.stderr
    assert objects(seaweed, bucket) == []
    done, *_ = run_on(seaweed, tmp_path, Losing, lambda _: 0, invoices=4, bucket=bucket, home="two")
    assert done.returncode == 0, done.stderr
    assert objects(seaweed, bucket) == sorted(expected)
