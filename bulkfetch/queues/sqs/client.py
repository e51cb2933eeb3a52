"""From a queue's URL and the environment to calls of Amazon SQS."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from anyio import to_thread
from yarl import URL

from bulkfetch.errors import FatalError, TransientError, UsageError
from bulkfetch.net.addresses import refuse_in_the_clear
from bulkfetch.net.egress import Egress
from bulkfetch.queues.sqs.errors import sqs_errors
from bulkfetch.text import printable

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 10.0
"""Seconds for one call, connecting included. A call that waits for messages gets its wait in addition."""

LONGEST_WAIT = 20
"""Seconds for which SQS waits for messages at most."""

IN_FLIGHT = 16
"""Calls that one operation makes at the same time."""

_CONNECTIONS = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}")  # SQS allows 80; the dead-letter queue's has 5 more
_ACCOUNT = re.compile(r"[0-9]{12}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SqsAddress:
    """Where a queue is. `name` is its URL, `account` the AWS account that owns it, None for the credentials' own."""

    name: str
    queue: str
    account: str | None

    @classmethod
    def parse(cls, url: str) -> "SqsAddress":
        """The queue that `url`, sqs://name or sqs://account/name, names.

        Raises:
            UsageError: it names none that can be used, or carries credentials.
        """
        rest = url.removeprefix("sqs://")
        if "@" in rest:
            raise UsageError(
                "queue sqs://: credentials do not belong in a URL, which every user of the machine can read; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        account, owned, queue = rest.rpartition("/")
        if queue.endswith(".fifo"):
            raise UsageError(
                f"queue {printable(url, 200)}: a FIFO queue hands out nothing of a group while one of its messages is "
                "in work; use a standard queue"
            )
        if not _NAME.fullmatch(queue) or (owned and not _ACCOUNT.fullmatch(account)):
            raise UsageError(
                f"queue {printable(url, 200)}: give it as sqs://name or sqs://account/name; a name has up to 75 "
                "letters, digits, - and _, and an account 12 digits"
            )
        return cls(f"sqs://{rest}", queue, account or None)


class SqsClient:
    """Calls of SQS, each bounded in time and made once: whoever calls knows better whether to call again."""

    def __init__(self, name: str, client: Any) -> None:
        self.name = name
        self._client = client

    async def call(self, operation: str, *, patience: float = 0.0, **parameters: Any) -> Mapping[str, Any]:
        """What SQS answers to `operation`, as botocore names it; `patience` is how many seconds longer
        than usual an answer may take.

        Raises:
            TransientError, FatalError: see `sqs_errors`.
        """
        with sqs_errors(self.name), anyio.fail_after(ANSWER_TIMEOUT + patience):
            answer: Mapping[str, Any] = await getattr(self._client, operation)(**parameters)
        return answer

    @classmethod
    @asynccontextmanager
    async def connect(cls, name: str, environ: Mapping[str, str]) -> AsyncIterator["SqsClient"]:
        """A client for the SQS that `environ` names, until the block ends; nothing is sent to it yet.

        Keys, profile, region and endpoint are taken from `environ`. The credentials of a container, a web identity or
        an instance are found by botocore itself, in the process's own environment.

        Raises:
            UsageError: the settings cannot be used, or everything would travel in the clear to a public host.
            FatalError: a credentials' source refuses, or the endpoint's host name does not resolve.
        """
        egress = await to_thread.run_sync(Egress.of, environ)
        made = AioSession(profile=environ.get("AWS_PROFILE") or None).create_client("sqs", **_settings(environ, egress))
        client = await _entered(name, made)
        try:
            await refuse_in_the_clear(client.meta.endpoint_url, label=name, exposed="every message")
            yield cls(name, client)
        finally:
            with anyio.CancelScope(shield=True):
                await made.__aexit__(None, None, None)


async def _entered(name: str, made: Any) -> Any:
    try:
        with sqs_errors(name):
            # In a thread, on an event loop of its own: botocore reads models, endpoint rules and configuration files.
            return await to_thread.run_sync(asyncio.run, made.__aenter__())
    except ValueError:
        pass
    # Not within the handler: the error's text quotes a value, and a value may be a secret.
    raise UsageError(f"{name}: AWS_ENDPOINT_URL is no URL of a server")


def _settings(environ: Mapping[str, str], egress: Egress) -> Mapping[str, Any]:
    endpoint = environ.get("AWS_ENDPOINT_URL_SQS") or environ.get("AWS_ENDPOINT_URL") or None
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or None
    proxy = egress.proxy_for(URL(endpoint or f"https://sqs.{region}.amazonaws.com"))
    # Keys come from one place as a set: a token of another place would spoil them.
    names = (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN") if environ.get("AWS_ACCESS_KEY_ID") else ()
    )
    return {
        # botocore itself knows only the second one.
        "region_name": region,
        "endpoint_url": endpoint,
        "verify": egress.ca_file or None,
        "config": AioConfig(
            connect_timeout=CONNECT_TIMEOUT,
            # `call` is stricter, this only must not cut a long wait short.
            read_timeout=ANSWER_TIMEOUT + LONGEST_WAIT,
            # One retry loop in the program, and this is not it.
            retries={"total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
            # Told for good: without it botocore looks in the process's own environment.
            proxies={"https": proxy.secret_url} if proxy else {},
        ),
        **{name.lower(): environ.get(name) or None for name in names},
    }


async def attributes(sqs: SqsClient, queue_url: str, *names: str) -> Mapping[str, str]:
    """Those of a queue's attributes `names` that are set."""
    answer = await sqs.call("get_queue_attributes", QueueUrl=queue_url, AttributeNames=list(names))
    found: Mapping[str, str] = answer.get("Attributes", {})
    return found


async def for_each(items: Iterable[T], call: Callable[[T], Awaitable[None]]) -> None:
    """Make `call` for each of `items`, a few at a time. After an error no further call is begun.

    Raises:
        TransientError, FatalError: the first error, once all calls that were begun have ended.
    """
    left = iter(items)
    errors: list[TransientError | FatalError] = []

    async def work() -> None:
        while not errors:
            try:
                item = next(left)
            except StopIteration:
                return
            try:
                await call(item)
            except (TransientError, FatalError) as error:
                errors.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(IN_FLIGHT):
            tasks.start_soon(work, name=f"sqs-{number}")
    if errors:
        raise errors[0]
