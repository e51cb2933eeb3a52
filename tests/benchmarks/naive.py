"""What a user would write: the yardstick of the benchmark.

It verifies nothing, makes nothing durable, keeps no account, and holds a task for each ID.
"""

import argparse
import asyncio
from pathlib import Path

import aiofiles
import aiohttp

CHUNK = 64 * 1024


async def download(
    session: aiohttp.ClientSession, semaphore: asyncio.Semaphore, api_url: str, invoice_id: str, directory: Path
) -> None:
    """One invoice: link, then file."""
    async with semaphore:
        async with session.put(
            f"{api_url}/invoices/{invoice_id}/download-link?secondsValid=600", headers={"Authorization": "Bearer token"}
        ) as response:
            response.raise_for_status()
            url = (await response.json())["url"]
        async with session.get(url) as response:
            response.raise_for_status()
            async with aiofiles.open(directory / f"{invoice_id}.pdf", "wb") as file:
                async for chunk in response.content.iter_chunked(CHUNK):
                    await file.write(chunk)


async def main(ids: list[str], directory: Path, api_url: str, workers: int) -> None:
    """All of them at once, `workers` of them in work."""
    semaphore = asyncio.Semaphore(workers)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=workers)) as session:
        await asyncio.gather(*(download(session, semaphore, api_url, invoice_id, directory) for invoice_id in ids))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("ids", type=Path)
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("api_url")
    arguments.add_argument("--workers", type=int, default=32)
    given = arguments.parse_args()
    given.directory.mkdir(parents=True)
    asyncio.run(main(given.ids.read_text().split(), given.directory, given.api_url, given.workers))
