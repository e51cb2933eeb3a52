"""What a user would write to archive into a bucket: the yardstick of the benchmark.

It verifies nothing, may overwrite, keeps no account, and holds a task for each ID. The links and the PDFs come by
aiohttp; the put is by aiobotocore, or by boto3 in threads. Neither is a dependency of bulkfetch:

pip install aiobotocore boto3
"""

import argparse
import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp

IN_FLIGHT = 32
PREFIX = "archive"

Put = Callable[[str, bytes], Awaitable[object]]


@asynccontextmanager
async def by_aiobotocore(bucket: str) -> AsyncIterator[Put]:
    """Puts on the event loop."""
    session = importlib.import_module("aiobotocore.session").get_session()
    config = importlib.import_module("aiobotocore.config").AioConfig(max_pool_connections=IN_FLIGHT)
    async with session.create_client("s3", config=config) as client:

        async def put(key: str, body: bytes) -> None:
            await client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/pdf")

        yield put


@asynccontextmanager
async def by_boto3(bucket: str) -> AsyncIterator[Put]:
    """Puts in as many threads as there are in flight."""
    config = importlib.import_module("botocore.config").Config(max_pool_connections=IN_FLIGHT)
    client = importlib.import_module("boto3").client("s3", config=config)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(IN_FLIGHT) as threads:

        async def put(key: str, body: bytes) -> None:
            one = partial(client.put_object, Bucket=bucket, Key=key, Body=body, ContentType="application/pdf")
            await loop.run_in_executor(threads, one)

        yield put


CLIENTS = {"aiobotocore": by_aiobotocore, "boto3": by_boto3}


async def archive(
    session: aiohttp.ClientSession, semaphore: asyncio.Semaphore, put: Put, api_url: str, invoice_id: str
) -> None:
    """One invoice: link, then PDF, then object."""
    async with semaphore:
        async with session.put(
            f"{api_url}/invoices/{invoice_id}/download-link?secondsValid=600", headers={"Authorization": "Bearer token"}
        ) as response:
            response.raise_for_status()
            url = (await response.json())["url"]
        async with session.get(url) as response:
            response.raise_for_status()
            body = await response.read()
        await put(f"{PREFIX}/{invoice_id}.pdf", body)


async def main(client: str, ids: list[str], bucket: str, api_url: str) -> None:
    """All of them at once, `IN_FLIGHT` of them in work."""
    semaphore = asyncio.Semaphore(IN_FLIGHT)
    async with aiohttp.ClientSession() as session, CLIENTS[client](bucket) as put:
        await asyncio.gather(*(archive(session, semaphore, put, api_url, invoice_id) for invoice_id in ids))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--client", choices=CLIENTS, required=True)
    arguments.add_argument("ids", type=Path)
    arguments.add_argument("bucket")
    arguments.add_argument("api_url")
    given = arguments.parse_args()
    asyncio.run(main(given.client, given.ids.read_text().split(), given.bucket, given.api_url))
