"""What every test shares: one async backend, and a guard against blocking the event loop."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster
from support.disks import as_nobody, mount  # noqa: F401 - fixtures
from support.ministack import ministack, pytest_collection_finish  # noqa: F401 - a fixture, and a hook that prepares it
from support.nats_server import nats  # noqa: F401 - a fixture
from support.seaweed import seaweed  # noqa: F401 - a fixture


@pytest.fixture
def anyio_backend() -> str:
    """bulkfetch runs on asyncio (aiohttp needs it), so its tests do too."""
    return "asyncio"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call made by bulkfetch on the event loop fails the test that made it."""
    blockbuster = BlockBuster(scanned_modules=["bulkfetch"])
    blockbuster.activate()
    yield
    blockbuster.deactivate()
