"""The bucket store on a real S3 server: what is there afterwards, and what each failure comes to."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import obstore
import pytest
from aiohttp import web
from support.buckets import a_gate, connected
from support.doubles import GivenBody, Part, chunks
from support.pdfs import pdf_bytes
from support.puts import put as put_body
from support.s3_proxy import Forgetful, S3Proxy, s3_error, s3_proxy, serving
from support.seaweed import SECRET_KEY, Seaweed

from bulkfetch.app.open_archive import bucket_settings
from bulkfetch.config import Destination
from bulkfetch.errors import (
    FatalError,
    InvoiceError,
    OriginError,
    PermanentError,
    Reason,
    Throttled,
    TransientError,
)
from bulkfetch.events import Event, Listener, Note, OriginDown
from bulkfetch.interfaces import Body
from bulkfetch.models import ObjectMeta
from bulkfetch.net.gate import Gate
from bulkfetch.stores.bucket.address import connect
from bulkfetch.stores.bucket.errors import Refused
from bulkfetch.stores.bucket.objects import BucketObjects
from bulkfetch.stores.bucket.store import BucketStore

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
PDF = pdf_bytes()
MARKER = ".bulkfetch/probe"


def pdf(data: bytes = PDF, *then: Part) -> GivenBody:
    """A body of `data`, which its server calls by another name than a PDF."""
    return GivenBody(*chunks(data), *then, content_type="application/octet-stream")


async def put(store: BucketStore, key: str = "INV-1.pdf", body: Body | None = None, **fields: str):
    return await put_body(store, key, body or pdf(), fields=fields)


def large(size: int = 20 * MIB) -> bytes:
    return (hashlib.sha256(b"large").digest() * (size // 32 + 1))[:size]


def at(bucket: str, **more) -> Destination:
    return Destination(url=f"s3://{bucket}/invoices", **more)


@asynccontextmanager
async def proxied(
    seaweed: Seaweed,
    spool: Path,
    *,
    bucket: str = "",
    gate: Gate | None = None,
    kind: type[S3Proxy] = S3Proxy,
    notify: Listener = lambda _: None,
) -> AsyncIterator[tuple[S3Proxy, BucketStore]]:
    """A store behind a proxy that has forgotten the requests of its opening."""
    async with s3_proxy(seaweed, kind) as proxy:
        settings = at(bucket or seaweed.bucket(), endpoint=proxy.endpoint)
        async with connected(settings, seaweed, spool=spool, gate=gate, notify=notify) as store:
            proxy.seen.clear()
            yield proxy, store


def left_in(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


async def test_an_object_is_put_once_with_its_hash_and_type(seaweed: Seaweed, tmp_path: Path) -> None:
    """An object carries its type and SHA-256, and a versioned bucket has one version of it, which the result names."""
    bucket = seaweed.bucket(versioned=True)
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        result = await put(store)
        again = await put(store)

    told = seaweed.head(bucket, "invoices/INV-1.pdf")
    assert (told["content-type"], told["x-amz-meta-sha256"]) == ("application/pdf", result.sha256)
    assert (result.version_id, again.version_id) == (told["x-amz-version-id"], told["x-amz-version-id"])
    assert again.adopted
    assert seaweed.versions(bucket).count("invoices/INV-1.pdf") == 1
    assert (result.lock_mode, result.retain_until) == (None, None)


@pytest.mark.parametrize("size", [1000, 9 * MIB])
async def test_two_machines_race_for_one_key(seaweed: Seaweed, tmp_path: Path, size: int) -> None:
    """Of two stores that put the same bytes under one key at once, one stores and the other adopts."""
    bucket = seaweed.bucket(versioned=True)
    results = []

    async def race(store: BucketStore) -> None:
        results.append(await put(store, body=pdf(large(size))))

    async with (
        connected(at(bucket), seaweed, spool=tmp_path / "a") as one,
        connected(at(bucket), seaweed, spool=tmp_path / "b") as two,
        anyio.create_task_group() as racers,
    ):
        racers.start_soon(race, one)
        racers.start_soon(race, two)

    assert sorted(result.adopted for result in results) == [False, True]
    assert seaweed.versions(bucket).count("invoices/INV-1.pdf") == 1


async def test_a_large_body_is_no_multipart_upload(seaweed: Seaweed, tmp_path: Path) -> None:
    """20 MiB go up from disk in one request, byte for byte, and nothing is left on disk."""
    bucket = seaweed.bucket()
    async with proxied(seaweed, tmp_path, bucket=bucket) as (proxy, store):
        result = await put(store, body=pdf(large()))
        assert [method for method, _ in proxy.seen if method != "HEAD"] == ["PUT"]

        assert b"".join([chunk async for chunk in store.get("INV-1.pdf")]) == large()
    assert result.sha256 == hashlib.sha256(large()).hexdigest()
    assert left_in(tmp_path) == []


async def test_a_large_body_that_fails_in_the_middle_leaves_nothing(seaweed: Seaweed, tmp_path: Path) -> None:
    """When a body raises after 20 MiB, there is no object, no multipart upload and no file."""
    bucket = seaweed.bucket()
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        with pytest.raises(TransientError):
            await put(store, body=pdf(large(), TransientError(Reason.TRUNCATED, "cut")))

    assert seaweed.keys(bucket) == [f"invoices/{MARKER}"]
    assert seaweed.uploads(bucket) == []
    assert left_in(tmp_path) == []


async def test_a_put_cancelled_in_mid_upload_ends_whole(seaweed: Seaweed, tmp_path: Path) -> None:
    """A cancellation during a large upload waits for its end: the object is whole, and no multipart upload is left."""
    bucket = seaweed.bucket()
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        with anyio.CancelScope() as scope:
            result = await put_body(store, "INV-1.pdf", pdf(large()), taken=scope.cancel)

        assert scope.cancel_called
        assert await store.head(["INV-1.pdf"]) == [ObjectMeta("INV-1.pdf", result.size)]
    assert seaweed.uploads(bucket) == []


async def test_other_bytes_are_kept_on_this_machine(seaweed: Seaweed, tmp_path: Path) -> None:
    """In a conflict the first copy stays, and the new bytes are in the local quarantine and not in the bucket."""
    bucket = seaweed.bucket(versioned=True)
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        await put(store)
        with pytest.raises(PermanentError) as caught:
            await put(store, body=pdf(PDF + b"changed"))

    [kept] = left_in(tmp_path / "quarantine")
    assert kept.read_bytes() == PDF + b"changed"
    assert caught.value.reason is Reason.CONFLICT
    assert str(kept) in str(caught.value)
    assert sorted(seaweed.versions(bucket)) == [f"invoices/{MARKER}", "invoices/INV-1.pdf"]


async def test_an_object_of_another_program_is_compared_by_its_bytes(seaweed: Seaweed, tmp_path: Path) -> None:
    """What someone else put without a hash is read: equal bytes are adopted, others are a conflict."""
    bucket = seaweed.bucket()
    seaweed.request("PUT", f"/{bucket}/invoices/INV-1.pdf", {}, body=PDF)
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        assert (await put(store)).adopted
        with pytest.raises(PermanentError):
            await put(store, body=pdf(PDF[::-1]))


async def test_adopting_reads_and_checks(seaweed: Seaweed, tmp_path: Path) -> None:
    """`adopt` takes over a whole PDF, whoever put it, and neither something else nor nothing."""
    bucket = seaweed.bucket()
    seaweed.request("PUT", f"/{bucket}/invoices/INV-1.pdf", {}, body=PDF)
    seaweed.request("PUT", f"/{bucket}/invoices/INV-2.pdf", {}, body=PDF[:-8])
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        taken = await store.adopt("INV-1.pdf")
        assert taken is not None
        assert (taken.adopted, taken.size, taken.sha256) == (True, len(PDF), hashlib.sha256(PDF).hexdigest())
        assert await store.adopt("INV-2.pdf") is None
        assert await store.adopt("INV-3.pdf") is None


@pytest.mark.parametrize(
    ("environ", "url", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "", "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODYATALL"}, "", "AWS_ACCESS_KEY_ID"),
        ({}, "s3://no-such-bucket/invoices", "no such bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "", "cannot be connected to"),
    ],
)
async def test_what_is_wrong_from_the_start(seaweed: Seaweed, tmp_path: Path, environ, url, says) -> None:
    """Wrong keys, a missing bucket and a dead endpoint are found before anything is put, and named without a secret."""
    settings = Destination(url=url or f"s3://{seaweed.bucket()}/invoices")
    with pytest.raises(FatalError, match=says) as caught:
        async with connected(settings, seaweed, spool=tmp_path, environ=environ):
            pass

    assert settings.url in str(caught.value)
    for secret in (SECRET_KEY, "X-Amz-", "http://"):
        assert secret not in str(caught.value)


async def test_a_store_that_ignores_conditions_is_named(seaweed: Seaweed, tmp_path: Path) -> None:
    """A store that answers every put with success would let objects be replaced: it is refused at the start."""

    async def agreeable(request: web.Request) -> web.Response:
        return web.Response(headers={"ETag": '"1"'})

    async with serving(agreeable) as endpoint:
        with pytest.raises(FatalError, match="If-None-Match"):
            async with connected(at("any", endpoint=endpoint), seaweed, spool=tmp_path):
                pass


class Narrow(S3Proxy):
    """Refuses every PUT that carries the header `unknown`, with the status and code of `refusal`."""

    unknown = "If-None-Match"
    refusal = (501, "NotImplemented")

    async def handle(self, request: web.Request) -> web.Response:
        if request.method == "PUT" and self.unknown in request.headers:
            self.seen.append((request.method, request.raw_path))
            return s3_error(*self.refusal)()
        return await super().handle(request)


@pytest.mark.parametrize("unknown", ["If-None-Match", "x-amz-checksum-sha256"])
@pytest.mark.parametrize("refusal", [(501, "NotImplemented"), (400, "InvalidArgument"), (400, ""), (501, "")])
async def test_what_a_put_may_not_carry_is_named(seaweed: Seaweed, tmp_path: Path, unknown, refusal) -> None:
    """A store that refuses conditional puts, or puts with a checksum, is refused at the start by the header's name."""
    bucket = seaweed.bucket()
    async with s3_proxy(seaweed, Narrow) as proxy:
        proxy.unknown, proxy.refusal = unknown, refusal
        with pytest.raises(FatalError, match=unknown):
            async with connected(at(bucket, endpoint=proxy.endpoint), seaweed, spool=tmp_path):
                pass


async def test_a_bucket_of_another_region(seaweed: Seaweed, tmp_path: Path) -> None:
    """The redirect that S3 sends for a wrong region becomes advice to set the region."""

    async def elsewhere(request: web.Request) -> web.Response:
        answer = s3_error(301, "PermanentRedirect")()
        answer.headers["x-amz-bucket-region"] = "eu-central-1"
        return answer

    async with serving(elsewhere) as endpoint:
        with pytest.raises(FatalError, match="AWS_REGION"):
            async with connected(at("any", endpoint=endpoint), seaweed, spool=tmp_path):
                pass


async def test_without_the_right_to_list(seaweed: Seaweed, tmp_path: Path) -> None:
    """A store that answers "denied" for what is not there cannot tell what is: it is refused at the start."""
    async with s3_proxy(seaweed) as proxy:
        proxy.head_answers = [lambda: web.Response(status=403)]
        with pytest.raises(FatalError, match="s3:ListBucket"):
            async with connected(at(seaweed.bucket(), endpoint=proxy.endpoint), seaweed, spool=tmp_path):
                pass


async def test_a_probe_that_is_refused_again_and_again(seaweed: Seaweed, tmp_path: Path) -> None:
    """A store that asks for a pause each time is asked four times, with waits in between, and then the run stops."""
    async with s3_proxy(seaweed) as proxy:
        proxy.answers = [s3_error(503, "SlowDown")] * 40
        with pytest.raises(FatalError, match="SlowDown"):
            async with connected(at(seaweed.bucket(), endpoint=proxy.endpoint), seaweed, spool=tmp_path):
                pass

        assert [method for method, _ in proxy.seen] == ["PUT"] * 4


async def test_the_probe_is_put_once(seaweed: Seaweed, tmp_path: Path) -> None:
    """However often a locked bucket is opened, it gets one marker, of which there is one version."""
    bucket = seaweed.bucket(lock="GOVERNANCE")
    for _ in range(3):
        async with connected(at(bucket), seaweed, spool=tmp_path):
            pass

    assert seaweed.versions(bucket) == [f"invoices/{MARKER}"]


async def test_a_bucket_that_goes_away(seaweed: Seaweed, tmp_path: Path) -> None:
    """A bucket deleted in mid-run stops the run with the first put."""
    bucket = seaweed.bucket()
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        await put(store)
        seaweed.drop(bucket)
        with pytest.raises(FatalError, match="no such bucket"):
            await put(store, "INV-2.pdf")
        with pytest.raises(FatalError, match="no such bucket"):
            await store.adopt("INV-1.pdf")


@pytest.mark.parametrize(
    ("status", "code", "kind", "reason"),
    [
        (503, "SlowDown", Throttled, Reason.STORE_ERROR),
        (503, "", Throttled, Reason.STORE_ERROR),
        (429, "TooManyRequests", Throttled, Reason.STORE_ERROR),
        (500, "InternalError", OriginError, Reason.STORE_ERROR),
        (504, "", OriginError, Reason.STORE_ERROR),
        (400, "RequestTimeout", OriginError, Reason.STORE_ERROR),
        (400, "BadDigest", TransientError, Reason.STORE_ERROR),
        (409, "ConditionalRequestConflict", TransientError, Reason.STORE_ERROR),
        (400, "EntityTooLarge", PermanentError, Reason.TOO_LARGE),
        (400, "KeyTooLongError", PermanentError, Reason.INVALID_ID),
        (400, "ExpiredToken", FatalError, None),
        (403, "RequestTimeTooSkewed", FatalError, None),
        (403, "AccessDenied", FatalError, None),
        (403, "", Refused, None),
        (400, "KMS.DisabledException", FatalError, None),
        (400, "InvalidRequest", Refused, None),
        (501, "NotImplemented", Refused, None),
    ],
)
async def test_what_a_refused_put_comes_to(seaweed: Seaweed, tmp_path: Path, status, code, kind, reason) -> None:
    """Each refusal has its disposition, its text no link, and obstore tries nothing again on its own."""
    bucket = seaweed.bucket()
    async with proxied(seaweed, tmp_path, bucket=bucket) as (proxy, store):
        proxy.answers = [s3_error(status, code)]
        with pytest.raises(kind) as caught:
            await put(store)

        assert [method for method, _ in proxy.seen] == ["PUT"]
        assert type(caught.value) is kind
        assert (getattr(caught.value, "reason", None), "http://" in str(caught.value)) == (reason, False)
        if isinstance(caught.value, InvoiceError):
            assert caught.value.http_status == status


async def test_a_store_that_falls_silent(seaweed: Seaweed, tmp_path: Path) -> None:
    """A put that gets no answer fails in time, as the store's fault, and the next one finds what became of it."""
    hold = anyio.Event()

    class Silent(S3Proxy):
        silent = False

        async def handle(self, request: web.Request) -> web.Response:
            answer = await super().handle(request)
            if self.silent and request.method == "PUT":
                self.silent = False
                await hold.wait()
            return answer

    async with s3_proxy(seaweed, Silent) as proxy:
        settings = at(seaweed.bucket(), endpoint=proxy.endpoint)
        async with connected(settings, seaweed, spool=tmp_path, answer_seconds=1.0) as store:
            proxy.silent = True
            with pytest.raises(OriginError, match="no answer in time"):
                await put(store)
            hold.set()
            assert (await put(store)).adopted


async def test_slow_down_pauses_and_charges_nobody(seaweed: Seaweed, tmp_path: Path) -> None:
    """After a SlowDown the gate holds the next put back, and that one goes through."""
    paused: list[float] = []
    gate = a_gate(lambda event: paused.append(event.seconds) if isinstance(event, OriginDown) else None)
    async with proxied(seaweed, tmp_path, gate=gate) as (proxy, store):
        proxy.answers = [s3_error(503, "SlowDown")]
        with pytest.raises(Throttled) as caught:
            await put(store)
        result = await put(store)

    assert not caught.value.charged
    assert not result.adopted
    assert (gate.requests.refused, gate.requests.sent, len(paused)) == (1, 2, 1)
    assert paused[0] >= 1.0


async def test_a_look_outlasts_a_refusal(seaweed: Seaweed, tmp_path: Path) -> None:
    """`head` asks again when the store is out of order, and tells the truth then."""
    async with proxied(seaweed, tmp_path) as (proxy, store):
        await put(store)
        proxy.head_answers = [lambda: web.Response(status=500)]
        assert await store.head(["INV-1.pdf", "INV-2.pdf"]) == [ObjectMeta("INV-1.pdf", len(PDF)), None]


async def test_refused_looks_stop_the_run(seaweed: Seaweed, tmp_path: Path) -> None:
    """A look that is denied is no answer, least of all "not there"."""
    async with proxied(seaweed, tmp_path) as (proxy, store):
        proxy.head_answers = [lambda: web.Response(status=403)]
        with pytest.raises(FatalError, match="s3:ListBucket"):
            await store.head(["INV-1.pdf"])


@pytest.mark.parametrize("size", [1000, 9 * MIB])
async def test_bytes_damaged_on_the_way_are_refused(seaweed: Seaweed, tmp_path: Path, size: int) -> None:
    """When a byte changes between here and the store, the put fails and nothing is there; the next one succeeds."""
    bucket = seaweed.bucket()
    async with proxied(seaweed, tmp_path, bucket=bucket) as (proxy, store):
        proxy.damage = True
        with pytest.raises(TransientError):
            await put(store, body=pdf(large(size)))
        proxy.damage = False

        assert await store.head(["INV-1.pdf"]) == [None]
        assert not (await put(store, body=pdf(large(size)))).adopted


class Liar(S3Proxy):
    """Answers a PUT that ends in .pdf with 200 and `tag`. What it keeps is what `keeps` makes of the body; None is
    nothing."""

    tag = '"x"'
    keeps: Callable[[bytes], bytes | None] = staticmethod(lambda _: None)

    async def handle(self, request: web.Request) -> web.Response:
        if request.method != "PUT" or not request.path.endswith(".pdf"):
            return await super().handle(request)
        self.seen.append((request.method, request.raw_path))
        body = await request.read()
        tag = self.tag if self.tag != "md5" else f'"{hashlib.md5(body).hexdigest()}"'
        if (kept := self.keeps(body)) is not None:
            noted = {"x-amz-meta-sha256": hashlib.sha256(body).hexdigest()}
            put_past = partial(self.seaweed.request, "PUT", request.raw_path, {}, headers=noted, body=kept)
            await anyio.to_thread.run_sync(put_past)
        return web.Response(headers={"ETag": tag})


OTHER_MD5 = f'"{"0" * 32}"'


async def test_a_tag_of_other_bytes_is_looked_into(seaweed: Seaweed, tmp_path: Path) -> None:
    """Where the tag is another MD5 than that of what was put, the object is read: nothing there is tried again, other
    bytes are no success, now or for the next run, and right ones show that tags prove nothing in this bucket."""
    async with proxied(seaweed, tmp_path, kind=Liar) as (proxy, store):
        proxy.tag = OTHER_MD5
        with pytest.raises(TransientError, match="has none"):
            await put(store)
        proxy.keeps = lambda body: body[::-1]
        with pytest.raises(PermanentError, match="other bytes") as caught:
            await put(store, "INV-2.pdf")
        assert caught.value.reason is Reason.DIGEST_MISMATCH
        proxy.keeps = lambda body: body
        proxy.seen.clear()
        assert not (await put(store, "INV-3.pdf")).adopted
        assert not (await put(store, "INV-4.pdf")).adopted
        assert [method for method, _ in proxy.seen] == ["PUT", "GET", "PUT"]


async def test_a_damaged_object_is_not_taken_for_the_invoices_own(seaweed: Seaweed, tmp_path: Path) -> None:
    """An object that carries the right hash, but whose tag speaks against it, is read before it is adopted."""
    bucket = seaweed.bucket()
    noted = {"x-amz-meta-sha256": hashlib.sha256(PDF).hexdigest()}
    seaweed.request("PUT", f"/{bucket}/invoices/INV-1.pdf", {}, headers=noted, body=PDF[::-1])
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        with pytest.raises(PermanentError) as caught:
            await put(store)
    assert caught.value.reason is Reason.CONFLICT


async def test_an_answer_that_was_lost_ends_in_adoption(seaweed: Seaweed, tmp_path: Path) -> None:
    """When the store kept an object but its answer did not arrive, the next try finds the object its own."""
    bucket = seaweed.bucket(versioned=True)
    async with proxied(seaweed, tmp_path, bucket=bucket, kind=Forgetful) as (proxy, store):
        proxy.forget = True
        with pytest.raises(OriginError):
            await put(store)
        assert (await put(store)).adopted
    assert seaweed.versions(bucket).count("invoices/INV-1.pdf") == 1


async def test_an_earlier_body_of_the_same_invoice_is_its_own(seaweed: Seaweed, tmp_path: Path) -> None:
    """Where the server's PDF is another each time, what an answer was lost for is the invoice's own on a later try, as
    it is in the bucket; for another invoice with the same key, at the same time, it is a conflict."""
    bucket = seaweed.bucket(versioned=True)
    tried: dict[str, int] = {}
    async with proxied(seaweed, tmp_path, bucket=bucket, kind=Forgetful) as (proxy, store):
        proxy.forget = True
        with pytest.raises(OriginError):
            await put_body(store, "INV-1.pdf", pdf(), put_before=tried)
        with pytest.raises(PermanentError):
            await put_body(store, "INV-1.pdf", pdf(PDF + b"of another"), put_before={})
        result = await put_body(store, "INV-1.pdf", pdf(PDF + b"changed"), put_before=tried)

    assert (result.adopted, result.sha256, result.size) == (True, hashlib.sha256(PDF).hexdigest(), len(PDF))
    assert seaweed.versions(bucket).count("invoices/INV-1.pdf") == 1
    assert [path.read_bytes() for path in left_in(tmp_path / "quarantine")] == [PDF + b"of another"]


async def test_the_buckets_own_retention_is_read_back(seaweed: Seaweed, tmp_path: Path) -> None:
    """In a bucket with default retention the result names version, mode and end, without any setting."""
    bucket = seaweed.bucket(lock="GOVERNANCE")
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        for key in ("INV-1.pdf", "INV-2.pdf"):
            result = await put(store, key)

            assert result.version_id
            assert result.lock_mode == "GOVERNANCE"
            assert timedelta() < datetime.fromisoformat(result.retain_until) - datetime.now(UTC) <= timedelta(days=1)


async def test_an_unlocked_bucket_is_not_asked_for_locks(seaweed: Seaweed, tmp_path: Path) -> None:
    """Where the marker shows that nothing is locked, each object costs one request; where the marker is older than
    this run, the first object is asked for its lock, too."""
    bucket = seaweed.bucket()
    seen = []
    for _ in range(2):
        async with proxied(seaweed, tmp_path, bucket=bucket) as (proxy, store):
            for number in range(3):
                await put(store, f"INV-{len(seen)}-{number}.pdf")
        seen.append([method for method, _ in proxy.seen])

    assert seen == [["PUT", "PUT", "PUT"], ["PUT", "HEAD", "PUT", "PUT"]]


async def test_a_default_lock_that_came_after_the_marker_is_found(seaweed: Seaweed, tmp_path: Path) -> None:
    """A bucket that got its default retention between two runs locks the objects of the second, as their rows say."""
    bucket = seaweed.bucket(lock="on")
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        assert (await put(store)).lock_mode is None
    seaweed.lock_by_default(bucket, "GOVERNANCE")
    async with connected(at(bucket), seaweed, spool=tmp_path) as store:
        assert [(await put(store, f"INV-{number}.pdf")).lock_mode for number in (2, 3)] == ["GOVERNANCE"] * 2


@pytest.mark.parametrize("refusal", [403, 405, 501])
@pytest.mark.parametrize("lock", ["", "GOVERNANCE"])
async def test_a_lock_that_may_not_be_read_is_a_warning(
    seaweed: Seaweed, tmp_path: Path, refusal: int, lock: str
) -> None:
    """A refused read-back leaves the lock out of the result, at once and for good; where a lock is known to be there a
    warning says so, once."""
    bucket = seaweed.bucket(lock=lock)
    told: list[Event] = []
    async with proxied(seaweed, tmp_path, bucket=bucket, notify=told.append) as (proxy, store):
        proxy.head_answers = [lambda: web.Response(status=refusal)] * 9
        results = [await put(store, f"INV-{number}.pdf") for number in range(3)]

    assert [(result.lock_mode, result.retain_until) for result in results] == [(None, None)] * 3
    assert [method for method, _ in proxy.seen] == (["PUT", "HEAD", "PUT", "PUT"] if lock else ["PUT"] * 3)
    assert [note.level for note in told if isinstance(note, Note)] == (["warning"] if lock else [])


async def test_a_lock_is_read_behind_the_gate_and_again(seaweed: Seaweed, tmp_path: Path) -> None:
    """A store that asks for a pause, fails or does not know the object yet is asked again for its lock, by the gate."""
    bucket = seaweed.bucket(lock="GOVERNANCE")
    gate = a_gate()
    async with proxied(seaweed, tmp_path, bucket=bucket, gate=gate) as (proxy, store):
        proxy.head_answers = [partial(web.Response, status=status) for status in (503, 500, 404)]
        result = await put(store)

    assert result.lock_mode == "GOVERNANCE"
    assert (gate.requests.sent, gate.requests.refused) == (5, 1)


async def test_a_retention_of_days(seaweed: Seaweed, tmp_path: Path) -> None:
    """`lock_days` locks each object to the end of that day, on the server too, and the marker stays free."""
    bucket = seaweed.bucket(lock="on")
    settings = at(bucket, lock_mode="GOVERNANCE", lock_days=2)
    async with connected(settings, seaweed, spool=tmp_path) as store:
        result = await put(store)

    midnight = (datetime.now(UTC) + timedelta(days=3)).strftime("%Y-%m-%dT00:00:00Z")
    told = seaweed.head(bucket, "invoices/INV-1.pdf")
    assert (result.lock_mode, result.retain_until) == ("GOVERNANCE", midnight)
    assert (told["x-amz-object-lock-mode"], told["x-amz-object-lock-retain-until-date"]) == ("GOVERNANCE", midnight)
    assert "x-amz-object-lock-mode" not in seaweed.head(bucket, f"invoices/{MARKER}")


async def test_a_retention_by_column(seaweed: Seaweed, tmp_path: Path) -> None:
    """Each object is locked for years from its own date; one whose time is over is not; no date is the row's fault."""
    this_year = datetime.now(UTC).year
    settings = at(seaweed.bucket(lock="on"), lock_mode="GOVERNANCE", lock_column="issued", lock_years=8)
    async with connected(settings, seaweed, spool=tmp_path) as store:
        locked = await put(store, issued=f"{this_year}-03-31")
        over = await put(store, "INV-2.pdf", issued="2001-03-31")
        with pytest.raises(PermanentError) as caught:
            await put(store, "INV-3.pdf", issued="31.03.2024")

    assert locked.retain_until == f"{this_year + 8}-04-01T00:00:00Z"
    assert (over.lock_mode, over.retain_until) == (None, None)
    assert caught.value.reason is Reason.INVALID_ROW


async def test_a_lock_that_the_bucket_does_not_know(seaweed: Seaweed, tmp_path: Path) -> None:
    """To ask for a lock in a bucket without Object Lock stops the run before anything is put, and says why."""
    bucket = seaweed.bucket()
    settings = at(bucket, lock_mode="GOVERNANCE", lock_days=1)
    with pytest.raises(FatalError, match="lock_mode = GOVERNANCE asks: the bucket needs Object Lock"):
        async with connected(settings, seaweed, spool=tmp_path):
            pass
    assert seaweed.keys(bucket) == [f"invoices/{MARKER}"]


async def test_a_lock_that_cannot_be_read_back(seaweed: Seaweed, tmp_path: Path) -> None:
    """A store that takes a put and shows no lock afterwards gives no proof: the run stops."""

    class Tightlipped(S3Proxy):
        async def handle(self, request: web.Request) -> web.Response:
            answer = await super().handle(request)
            for name in [name for name in answer.headers if "object-lock" in name.lower()]:
                del answer.headers[name]
            return answer

    async with s3_proxy(seaweed, Tightlipped) as proxy:
        bucket = seaweed.bucket(lock="on")
        settings = at(bucket, endpoint=proxy.endpoint, lock_mode="GOVERNANCE", lock_days=1)
        with pytest.raises(FatalError, match="not its Object Lock"):
            async with connected(settings, seaweed, spool=tmp_path):
                pass


async def test_a_listing_begins_behind_where_it_is_asked_to(seaweed: Seaweed, monkeypatch) -> None:
    """Also in a store that begins with it."""
    objects = BucketObjects(await connect(bucket_settings(at(seaweed.bucket())), seaweed.environ))
    whole = obstore.list
    monkeypatch.setattr(obstore, "list", lambda store, prefix, offset: whole(store, prefix))

    def use() -> None:
        for name in "abc":
            objects.create(f"manifests/{name}", b"1")
        assert [meta.key for meta in objects.list("manifests/", after="manifests/b")] == ["manifests/c"]
        assert len(list(objects.list("manifests/"))) == 3

    await anyio.to_thread.run_sync(use)


async def test_small_objects_for_a_thread(seaweed: Seaweed) -> None:
    """Manifest parts are created once, listed in order and read back; what is absent and a missing bucket are told."""
    bucket = seaweed.bucket()
    objects = BucketObjects(await connect(bucket_settings(at(bucket)), seaweed.environ))

    def use() -> None:
        for name in ("b", "a", "c"):
            objects.create(f"manifests/{name}", name.encode())
        with pytest.raises(FileExistsError):
            objects.create("manifests/a", b"other")
        assert objects.read("manifests/a") == b"a"
        with pytest.raises(FileNotFoundError):
            objects.read("manifests/x")
        assert list(objects.list("manifests/")) == [ObjectMeta(f"manifests/{name}", 1) for name in "abc"]
        assert list(objects.list("manifests/", after="manifests/a")) == [
            ObjectMeta(f"manifests/{name}", 1) for name in "bc"
        ]
        objects.create("manifests/folder/a", b"aa")
        assert objects.level("manifests/") == (
            [ObjectMeta(f"manifests/{name}", 1) for name in "abc"],
            ["manifests/folder/"],
        )
        assert objects.level("nothing/") == ([], [])
        seaweed.drop(bucket)
        with pytest.raises(FatalError, match="no such bucket"):
            objects.create("manifests/d", b"d")
        with pytest.raises(FatalError, match="no such bucket"):
            list(objects.list("manifests/"))
        with pytest.raises(FatalError, match="no such bucket"):
            objects.level("manifests/")

    await anyio.to_thread.run_sync(use)
