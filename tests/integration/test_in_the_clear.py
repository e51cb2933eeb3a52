"""What each edge says in the clear to a name that is public, among other things: nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import anyio
import pytest
from support.edges import environment_token
from support.resolver import resolve_only

from bulkfetch.app.open_origins import open_origins as connect_origins
from bulkfetch.config import Api, Config
from bulkfetch.errors import FatalError, UsageError
from bulkfetch.queues.jetstream.queue import JetStreamQueue
from bulkfetch.queues.sqs.client import SqsClient
from bulkfetch.stores.bucket.address import BucketSettings
from bulkfetch.stores.bucket.address import connect as connect_bucket

pytestmark = pytest.mark.anyio

KEYS = {"AWS_ACCESS_KEY_ID": "AKIA-ENV", "AWS_SECRET_ACCESS_KEY": "secret-env", "AWS_REGION": "eu-west-1"}


async def api(host: str) -> None:
    config = Config(api=Api(url=f"http://{host}"))
    async with connect_origins(config, environment_token(), rng=Random(), notify=print):
        pass


async def bucket(host: str) -> None:
    await connect_bucket(BucketSettings(url="s3://archive", endpoint=f"http://{host}"), KEYS)


async def sqs(host: str) -> None:
    async with SqsClient.connect("sqs://q", KEYS | {"AWS_ENDPOINT_URL": f"http://{host}"}):
        pass


async def nats(host: str) -> None:
    async with JetStreamQueue.open(f"nats://{host}/q", {"NATS_TOKEN": "secret-env"}, create=False, notify=print):
        pass


@asynccontextmanager
async def counting() -> AsyncIterator[tuple[int, list[None]]]:
    """A port on loopback, and its connections."""
    connections: list[None] = []

    async def count(stream: anyio.abc.SocketStream) -> None:
        connections.append(None)
        await stream.aclose()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, count)
        yield listener.extra(anyio.abc.SocketAttribute.local_port), connections
        tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def no_aws_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the user who runs the tests."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.mark.parametrize("edge", [api, bucket, sqs, nats])
async def test_every_edge_refuses_a_public_name(monkeypatch, edge) -> None:
    """A name with one public address is refused before any connection, also where its first address is local."""
    resolve_only(monkeypatch, {"public.example": ["127.0.0.1", "8.8.8.8"]})
    async with counting() as (port, connections):
        with anyio.fail_after(20), pytest.raises(UsageError, match="to a public host would show") as caught:
            await edge(f"public.example:{port}")
    assert connections == []
    assert "secret-env" not in str(caught.value)


@pytest.mark.parametrize("edge", [api, bucket, sqs, nats])
async def test_every_edge_tells_of_a_name_that_does_not_resolve(monkeypatch, edge) -> None:
    """A name without an address stops the run, and is no error of usage: the resolver may be back tomorrow."""
    resolve_only(monkeypatch, {})
    with anyio.fail_after(20), pytest.raises(FatalError, match=r"the host name nowhere\.example does not") as caught:
        await edge("nowhere.example")
    assert not isinstance(caught.value, UsageError)
