"""A put and what the store says of it, as one call; a download read to its end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from bulkfetch.errors import BulkfetchError
from bulkfetch.interfaces import Body, Downloader, Landed, Store
from bulkfetch.models import Link, PutResult
from bulkfetch.pipeline.adoption import conflict


async def put(
    store: Store, key: str, body: Body, *, taken: Callable[[], None] = lambda: None, **more: Any
) -> PutResult:
    """The object that the store makes of `body`; its error is raised. `taken` is called when it has the body. A name
    that is taken is that of the same invoice: equal bytes are adopted, others are a conflict."""
    told: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()

    def committed(landed: Landed) -> None:
        if not told.done():  # whoever waited may have been cancelled
            told.set_result(landed)

    await store.put(key, body, committed=committed, **more)
    taken()
    return await settled(await told)


async def settled(landed: Landed) -> PutResult:
    """What `landed` comes to for the one invoice whose name it is."""
    if isinstance(landed, BulkfetchError):
        raise landed
    if isinstance(landed, PutResult):
        return landed
    if not landed.same or landed.found is None:
        raise await conflict(landed)
    await landed.drop()
    return landed.found


async def read_body(body: Body) -> bytes:
    """All of `body`."""
    chunks: list[bytes] = []
    while await body.gather(chunks, 1 << 20):
        pass
    return b"".join(chunks)


async def landing(told: list[Any]) -> None:
    """Wait until something is `told`."""
    with anyio.fail_after(10):
        while not told:  # noqa: ASYNC110 - a store calls from wherever it is
            await anyio.sleep(0.001)


@asynccontextmanager
async def opened(downloader: Downloader, link: Link, **options: Any) -> AsyncIterator[Body]:
    """The body behind `link`, closed at the end of the block."""
    body = await downloader.open(link, **options)
    try:
        yield body
    finally:
        body.close()
