"""What every test shares: one async backend, a guard against blocking the event loop, and how many run at a time."""

import os
from collections.abc import Iterator
from datetime import timedelta

import pytest
from blockbuster import BlockBuster
from hypothesis import settings
from support.disks import as_nobody, btrfs, mount  # noqa: F401 - fixtures
from support.folding import folding  # noqa: F401 - a fixture
from support.ministack import ministack, ministack_python, pytest_runtest_protocol  # noqa: F401 - fixtures, and a hook
from support.nats_server import nats  # noqa: F401 - a fixture
from support.seaweed import seaweed  # noqa: F401 - a fixture

WORKERS_PER_CORE = 2
MOST_WORKERS = 8


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many tests run at a time: more than there are cores, as most of them wait for servers and processes, which
    each worker starts for itself. A few single tests, named on the command line, are quicker without workers."""
    if all("::" in name for name in config.args):
        return 0
    return min(WORKERS_PER_CORE * (os.cpu_count() or 1), MOST_WORKERS)


# Examples share the cores with other tests: Hypothesis's own 0.2 seconds each would be a matter of luck.
# The same examples in every run, so that a change is judged by itself. `--hypothesis-profile explore` draws new ones.
settings.register_profile("shared cores", deadline=timedelta(seconds=5), derandomize=True)
settings.register_profile("explore", deadline=timedelta(seconds=5))
settings.load_profile("shared cores")


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
