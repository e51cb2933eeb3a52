"""The contract of `Store`, written against the Protocol alone: every kind of destination passes this one suite."""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import anyio
import pytest
from obstore.store import MemoryStore
from support.buckets import connected, open_bucket
from support.doubles import GivenBody, chunks
from support.puts import landing, put
from support.seaweed import Seaweed

from bulkfetch.config import Destination
from bulkfetch.errors import Aborted, BulkfetchError, PermanentError, Reason, TransientError
from bulkfetch.interfaces import Store
from bulkfetch.models import ObjectMeta, PutResult
from bulkfetch.stores import LocalStore
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.local import temp_files

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
SIZES = [0, 1, 150_000, MIB - 1, MIB, MIB + 1, 5 * MIB]

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


def content(size: int, seed: bytes = b"a") -> bytes:
    return (hashlib.sha256(seed).digest() * (size // 32 + 1))[:size]


def chunked(data: bytes, size: int = 65_536) -> GivenBody:
    return GivenBody(*chunks(data, size))


def nothing() -> None:
    """For a put whose `received` is of no interest."""


async def stored(store: Store, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.get(key)])


@pytest.fixture(params=["local", "local with named temporary files", "memory", "seaweedfs"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenStore:
    if request.param.startswith("local"):
        if "named" in request.param:
            # What a file system without nameless files answers to the flag (EISDIR), every one answers to this.
            monkeypatch.setattr(temp_files, "_NAMELESS", os.O_DIRECTORY)
        return partial(LocalStore.open, tmp_path / "archive", "run-1")
    if request.param == "memory":
        return partial(open_bucket, Bucket("memory://", MemoryStore()), spool=tmp_path)
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    settings = Destination(url=f"s3://{seaweed.bucket()}/in/voices")
    return partial(connected, settings, seaweed, spool=tmp_path)


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_put_is_what_is_got(open_store: OpenStore, size: int) -> None:
    """A body of any size comes back byte for byte, and the result tells its size and SHA-256."""
    data = content(size)
    async with open_store() as store:
        result = await put(store, "INV-1.pdf", chunked(data))

        assert await stored(store, "INV-1.pdf") == data
        assert await store.head(["INV-1.pdf"]) == [ObjectMeta("INV-1.pdf", size)]
        assert result.uri == store.uri("INV-1.pdf")
    assert (result.key, result.size, result.sha256) == ("INV-1.pdf", size, hashlib.sha256(data).hexdigest())
    assert (result.content_type, result.adopted) == ("application/pdf", False)


async def test_chunks_of_any_size_are_kept_in_order(open_store: OpenStore) -> None:
    """Thousands of small chunks, and one chunk larger than any buffer, end up as the bytes they were."""
    data = content(40_001)
    async with open_store() as store:
        await put(store, "small.pdf", chunked(data, 7))
        await put(store, "large.pdf", GivenBody(b"%", content(3 * MIB), b"E"))

        assert await stored(store, "small.pdf") == data
        assert await stored(store, "large.pdf") == b"%" + content(3 * MIB) + b"E"


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_what_became_of_a_body_is_told_once_after_the_put_returned(open_store: OpenStore, size: int) -> None:
    """`committed` is called exactly once, after the put has returned, with an object that is there."""
    told: list[PutResult | BulkfetchError] = []
    body = chunked(content(size))
    async with open_store() as store:
        in_memory = await store.put("INV-1.pdf", body, committed=told.append)
        assert told == []
        assert 0 <= in_memory <= max(size, MIB)
        await landing(told)
        assert await stored(store, "INV-1.pdf") == content(size)
    (landed,) = told
    assert isinstance(landed, PutResult)
    assert (landed.sha256, landed.size, landed.adopted) == (body.sha256, size, False)


async def test_objects_outlive_the_store(open_store: OpenStore) -> None:
    """Whoever opens the destination again finds what was put before."""
    async with open_store() as store:
        await put(store, "INV-1.pdf", chunked(b"%PDF-1"))
    async with open_store() as store:
        assert await stored(store, "INV-1.pdf") == b"%PDF-1"


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_the_same_content_is_adopted(open_store: OpenStore, size: int) -> None:
    """A second put of equal bytes says that it adopted what was there."""
    data = content(size)
    async with open_store() as store:
        first = await put(store, "INV-1.pdf", chunked(data))
        again = await put(store, "INV-1.pdf", chunked(data))

    assert not first.adopted
    assert again.adopted
    assert (again.uri, again.size, again.sha256) == (first.uri, first.size, first.sha256)


@pytest.mark.parametrize("other", [content(10, b"b"), content(2 * MIB, b"b"), b""])
async def test_other_content_conflicts_and_never_replaces(open_store: OpenStore, other: bytes) -> None:
    """A put of other bytes under a taken key fails as `conflict`, names both hashes, and leaves the first copy."""
    data = content(10)
    async with open_store() as store:
        await put(store, "INV-1.pdf", chunked(data))
        with pytest.raises(PermanentError) as caught:
            await put(store, "INV-1.pdf", chunked(other))

        assert await stored(store, "INV-1.pdf") == data
    assert caught.value.reason is Reason.CONFLICT
    for content_of in (data, other):
        assert hashlib.sha256(content_of).hexdigest()[:12] in str(caught.value)


@pytest.mark.parametrize("size", [0, 10, 2 * MIB])
@pytest.mark.parametrize(
    "error",
    [
        TransientError(Reason.TRUNCATED, "cut"),
        PermanentError(Reason.NOT_PDF, "no PDF", hold=True),
        Aborted("closing"),
        RuntimeError("a bug"),
    ],
)
async def test_a_body_that_raises_leaves_nothing_under_its_key(
    open_store: OpenStore, size: int, error: Exception
) -> None:
    """What a body raises comes out of the put unchanged, `received` is never told, and the key stays free."""
    told: list[None] = []
    async with open_store() as store:
        with pytest.raises(type(error)) as caught:
            await put(store, "INV-1.pdf", GivenBody(content(size) or b"%", error), taken=lambda: told.append(None))

        assert caught.value is error
        assert not told
        assert await store.head(["INV-1.pdf"]) == [None]
        assert not (await put(store, "INV-1.pdf", chunked(b"%PDF-"))).adopted


async def test_hundreds_at_once(open_store: OpenStore) -> None:
    """200 concurrent puts of small and large bodies all end in their own content."""
    bodies = {f"{n % 7}/INV-{n}.pdf": content(MIB + n if n % 50 == 0 else 100 * n, str(n).encode()) for n in range(200)}
    received: list[str] = []
    async with open_store() as store:
        async with anyio.create_task_group() as puts:
            for key, data in bodies.items():
                puts.start_soon(partial(put, store, key, chunked(data), taken=partial(received.append, key)))

        assert sorted(received) == sorted(bodies)
        assert [meta and meta.size for meta in await store.head(list(bodies))] == [len(d) for d in bodies.values()]
        for key, data in bodies.items():
            assert await stored(store, key) == data


async def _outcomes(store: Store, bodies: list[bytes]) -> list[PutResult | Reason]:
    """What concurrent puts of `bodies` under one key come to."""
    outcomes: list[PutResult | Reason] = []

    async def one(data: bytes) -> None:
        try:
            outcomes.append(await put(store, "INV-1.pdf", chunked(data)))
        except PermanentError as error:
            outcomes.append(error.reason)

    async with anyio.create_task_group() as puts:
        for data in bodies:
            puts.start_soon(one, data)
    return outcomes


async def test_equal_bodies_race_for_one_key(open_store: OpenStore) -> None:
    """Of concurrent puts of equal bytes under one key, exactly one stores and the others adopt."""
    async with open_store() as store:
        outcomes = await _outcomes(store, [b"%PDF-same"] * 8)

        assert await stored(store, "INV-1.pdf") == b"%PDF-same"
    assert sorted(isinstance(o, PutResult) and o.adopted for o in outcomes) == [False] + [True] * 7


async def test_different_bodies_race_for_one_key(open_store: OpenStore) -> None:
    """Of concurrent puts of different bytes under one key, exactly one wins and the others conflict."""
    bodies = [b"%%PDF-%d" % n for n in range(8)]
    async with open_store() as store:
        outcomes = await _outcomes(store, bodies)

        [winner] = [outcome for outcome in outcomes if isinstance(outcome, PutResult)]
        assert hashlib.sha256(await stored(store, "INV-1.pdf")).hexdigest() == winner.sha256
    assert outcomes.count(Reason.CONFLICT) == 7


async def test_head_answers_in_the_order_asked(open_store: OpenStore) -> None:
    """`head` has one answer a key, in order: None for what is absent, for a prefix of a key, and beyond a key."""
    async with open_store() as store:
        await put(store, "2024/INV-1.pdf", chunked(b"12345"))

        asked = ["absent.pdf", "2024/INV-1.pdf", "2024", "2024/INV-1.pdf/x", "2025/INV-1.pdf", "2024/INV-1.pdf"]
        found = ObjectMeta("2024/INV-1.pdf", 5)
        assert await store.head(asked) == [None, found, None, None, None, found]
        assert await store.head([]) == []


async def test_get_of_what_is_absent(open_store: OpenStore) -> None:
    """`get` of a key that is not there raises `FileNotFoundError`, below a missing directory too."""
    async with open_store() as store:
        for key in ("absent.pdf", "2024/absent.pdf"):
            with pytest.raises(FileNotFoundError):
                await stored(store, key)


async def test_keys_may_have_directories(open_store: OpenStore) -> None:
    """Keys with several components, spaces, non-ASCII letters, signs and escapes are kept apart, and their URIs are
    encoded."""
    keys = ["a.pdf", "A.pdf", "2024/a.pdf", "2024/03/a.pdf", "M & S, 'x' (1+1=2)/@ü %2f~0f.pdf", "2024/03 März/a#1.pdf"]
    async with open_store() as store:
        results = [await put(store, key, chunked(key.encode())) for key in keys]

        for key in keys:
            assert await stored(store, key) == key.encode()
    assert results[-1].uri.endswith("/2024/03%20M%C3%A4rz/a%231.pdf")


@pytest.mark.parametrize(
    "key", ["", "/etc/x", "../x", "a/../x", "a//x", "a/", ".", "a\0b", "\ud800", ".bulkfetch/lock"]
)
async def test_keys_that_could_lead_outside_are_refused(open_store: OpenStore, key: str) -> None:
    """A key that would leave the destination, or meet bulkfetch's own files, is refused as `invalid_id`."""
    async with open_store() as store:
        with pytest.raises(PermanentError) as caught:
            await put(store, key, chunked(b"%PDF-"))

    assert caught.value.reason is Reason.INVALID_ID


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_a_put_cancelled_while_its_body_arrives_leaves_nothing(open_store: OpenStore, size: int) -> None:
    """Until the body's end a put can be cancelled at once, and its key stays free."""
    told: list[None] = []
    body = GivenBody(content(size), anyio.Event().wait)
    async with open_store() as store:
        with anyio.move_on_after(0.05) as scope:
            await put(store, "INV-1.pdf", body, taken=lambda: told.append(None))

        assert scope.cancelled_caught
        assert not told
        assert await store.head(["INV-1.pdf"]) == [None]


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_a_put_cancelled_at_its_last_byte_ends_in_its_object_or_leaves_nothing(
    open_store: OpenStore, size: int
) -> None:
    """A put that returns is told of its object, whatever is cancelled meanwhile; one that does not has left nothing."""
    told: list[PutResult | BulkfetchError] = []
    returned = False
    async with open_store() as store:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                scope.cancel()

            await store.put("INV-1.pdf", GivenBody(content(size), cancel), committed=told.append)
            returned = True
        if returned:
            await landing(told)
        else:
            await anyio.sleep(0.2)
        assert [type(each) for each in told] == [PutResult] * returned
        assert (await store.head(["INV-1.pdf"]) == [None]) is not returned


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_a_body_in_the_stores_hands_ends_in_its_object(open_store: OpenStore, size: int) -> None:
    """Once a put has returned, no cancellation keeps the object from being told of."""
    data, told = content(size), []
    async with open_store() as store:
        with anyio.CancelScope() as scope:
            await store.put("INV-1.pdf", chunked(data), committed=told.append)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        await landing(told)
        assert await stored(store, "INV-1.pdf") == data
    assert [each.size for each in told if isinstance(each, PutResult)] == [size]


async def test_what_is_set_aside_gives_its_name_free(open_store: OpenStore) -> None:
    """The object is gone from its key, which another body may have; where nothing is, nothing happens."""
    async with open_store() as store:
        for round_ in range(2):
            await put(store, "2025/INV-1.pdf", chunked(content(1000, b"%d" % round_)))
            assert await store.set_aside("2025/INV-1.pdf")
            assert await store.head(["2025/INV-1.pdf"]) == [None]
        assert await store.set_aside("2025/INV-1.pdf")
        result = await put(store, "2025/INV-1.pdf", chunked(content(1000, b"right")))
        assert (result.adopted, await stored(store, "2025/INV-1.pdf")) == (False, content(1000, b"right"))
