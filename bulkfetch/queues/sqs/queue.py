"""Amazon SQS as a queue: a standard queue and, beside it, one for the dead letters.

SQS cannot tell what is queued already. Its counts are estimates, and workers have nothing to share a rate on.
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Self

import anyio

from bulkfetch.errors import FatalError, TransientError, UsageError
from bulkfetch.events import Listener
from bulkfetch.interfaces import SharedRate
from bulkfetch.models import DeadLetter, Lease, QueueStats
from bulkfetch.text import printable

try:
    from bulkfetch.queues.sqs.client import LONGEST_WAIT, SqsAddress, SqsClient
    from bulkfetch.queues.sqs.dead_letters import SqsDeadLetters
    from bulkfetch.queues.sqs.messages import MESSAGES, SqsMessages, deliveries, received_before
    from bulkfetch.queues.sqs.setup import LEASE_SECONDS, QueueUrls, set_up
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in {"aiobotocore", "botocore"}:
        raise
    raise UsageError("sqs:// needs the AWS client: pip install 'bulkfetch[sqs]'") from None

LONGEST_DELAY = 12 * 3600
LONGEST_SEND_DELAY = 15 * 60

_CLOSING_SECONDS = 10.0
_MORE_FETCHES = 4


class SqsQueue:
    """The `Queue` on Amazon SQS; made by `open`."""

    def __init__(self, sqs: SqsClient, urls: QueueUrls, lease_seconds: float, notify: Listener) -> None:
        self.name = sqs.name
        self.lease_seconds = lease_seconds
        self._messages = SqsMessages(sqs, urls.main)
        self._dead_letters = SqsDeadLetters(self.name, SqsMessages(sqs, urls.dead), notify)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        environ: Mapping[str, str],
        *,
        create: bool,
        notify: Listener,
        lease_seconds: float = LEASE_SECONDS,
    ) -> AsyncIterator[Self]:
        """The queue that `url` names. With `create`, queues that are missing are made.

        Raises:
            UsageError: URL, credentials or settings cannot be used.
            FatalError: SQS is not reached, refuses, or the queue is missing or set up wrongly.
        """
        address = SqsAddress.parse(url)
        async with SqsClient.connect(address.name, environ) as sqs:
            try:
                urls = await set_up(sqs, address, create=create, notify=notify)
            except TransientError as error:
                raise FatalError(f"{error}; check AWS_REGION, AWS_ENDPOINT_URL and the network") from None
            queue = cls(sqs, urls, lease_seconds, notify)
            try:
                yield queue
            finally:
                # A listing that was given up may not have ended in order.
                with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSING_SECONDS):
                    await queue._dead_letters.reveal()

    async def put(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """See `interfaces.Queue.put`. SQS cannot tell what is queued already, so all messages count as new. If the call
        is made again after an error, the messages that were sent before are in the queue twice."""
        await self._messages.send([(invoice_id, self._text(invoice_id, body)) for invoice_id, body in messages])
        return len(messages)

    def _text(self, invoice_id: str, body: bytes) -> str:
        try:
            return body.decode()
        except UnicodeDecodeError:
            problem = f"the message of {printable(invoice_id, 100)} is not UTF-8, and SQS takes text only"
            raise FatalError(f"{self.name}: {problem}") from None

    async def fetch(self, limit: int, wait: float) -> Sequence[Lease]:
        """See `interfaces.Queue.fetch`. SQS waits for whole seconds, one at least."""
        first = min(limit, MESSAGES)
        leases = await self._lease(first, min(LONGEST_WAIT, max(1, round(wait))))
        if len(leases) == first < limit:
            leases += await self._lease_more(limit - first)
        return leases

    async def _lease_more(self, left: int) -> Sequence[Lease]:
        """Up to `left` more leases, those that SQS has ready."""
        found: list[Lease] = []

        async def work() -> None:
            nonlocal left
            while left > 0:
                asked = min(left, MESSAGES)
                left -= asked
                try:
                    some = await self._lease(asked, 0)
                except (TransientError, FatalError):
                    some = []  # what is in hand already is handed out; the next call meets the trouble
                found.extend(some)
                if len(some) < asked:
                    left = 0

        async with anyio.create_task_group() as tasks:
            for number in range(_MORE_FETCHES):
                tasks.start_soon(work, name=f"sqs-fetch-{number}")
        return found

    async def _lease(self, limit: int, wait: int) -> list[Lease]:
        return [
            Lease(message["Body"].encode(), deliveries(message), message["ReceiptHandle"], received_before(message))
            for message in await self._messages.receive(limit, wait=wait, lease=self._whole_lease())
        ]

    def _whole_lease(self) -> int:
        return max(1, math.ceil(self.lease_seconds))

    async def ack(self, lease: Lease) -> None:
        """See `interfaces.Queue.ack`. After the end of the lease the message may stay, and come again."""
        await self._messages.delete(_receipt(lease))

    async def nack(self, lease: Lease, delay: float) -> None:
        """See `interfaces.Queue.nack`. The delay is in whole seconds, twelve hours at most."""
        await self._messages.end_in(min(math.ceil(delay), LONGEST_DELAY), [_receipt(lease)])

    async def release(self, lease: Lease, delay: float) -> None:
        """See `interfaces.Queue.release`. The delay is in whole seconds, 15 minutes at most."""
        whole = min(math.ceil(delay), LONGEST_SEND_DELAY)
        await self._messages.replace(_receipt(lease), lease.body.decode(), whole, deliveries=lease.deliveries - 1)

    async def extend(self, leases: Sequence[Lease]) -> None:
        """See `interfaces.Queue.extend`. Twelve hours after it was handed out a message comes again all the same."""
        await self._messages.end_in(self._whole_lease(), [_receipt(lease) for lease in leases])

    async def dead(self, lease: Lease, dead_letter: DeadLetter) -> None:
        """See `interfaces.Queue.dead`. SQS cannot tell dead letters apart, so one that is put twice is there twice."""
        await self._dead_letters.put(dead_letter)
        await self.ack(lease)

    async def stats(self) -> QueueStats:
        """See `interfaces.Queue.stats`: estimates, up to a minute old. What waits out a delay counts as leased."""
        waiting, leased = await self._messages.count()
        return QueueStats(waiting, leased, await self._dead_letters.count())

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """See `interfaces.Queue.dead_letters`. While they are listed, no other listing has them."""
        return self._dead_letters.list()

    async def requeue(self, dead_letter: DeadLetter) -> None:
        """See `interfaces.Queue.requeue`. Call it while the listing lasts: once somebody else lists
        the dead letter, its message is queued again, but it cannot be removed.

        Raises:
            FatalError: this queue has not listed it.
        """
        self._dead_letters.raise_if_unlisted(dead_letter)
        await self.put([(dead_letter.invoice_id, dead_letter.body.encode())])
        await self._dead_letters.remove(dead_letter)

    async def forget(self, dead_letter: DeadLetter) -> None:
        """See `interfaces.Queue.forget`; as in `requeue`, while the listing lasts.

        Raises:
            FatalError: this queue has not listed it.
        """
        self._dead_letters.raise_if_unlisted(dead_letter)
        await self._dead_letters.remove(dead_letter)

    def shared_rate(
        self,
        name: str,  # noqa: ARG002
        *,
        rate: float,  # noqa: ARG002
        patience: float,  # noqa: ARG002
        on_pause: Callable[[float], None],  # noqa: ARG002
    ) -> AbstractAsyncContextManager[SharedRate | None]:
        """See `interfaces.Queue.shared_rate`: SQS offers nothing for it, so each worker must be given its share."""
        return nullcontext()


def _receipt(lease: Lease) -> str:
    assert isinstance(lease.handle, str)  # noqa: S101 - this driver made the lease
    return lease.handle
