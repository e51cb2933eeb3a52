"""One queue of invoices is two queues of SQS: how they are made, and what existing ones must be like.

A wrong setting loses invoices in silence, so it is refused, not worked around.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from bulkfetch.errors import FatalError
from bulkfetch.events import Listener, Note
from bulkfetch.queues.sqs.client import SqsAddress, SqsClient, attributes
from bulkfetch.queues.sqs.errors import QueueMissing, no_answer

LEASE_SECONDS = 30
RETENTION = 14 * 24 * 3600
"""Seconds, and SQS allows no more."""

LEAST_RECEIVES = 20
"""The smallest `maxReceiveCount` that may be. bulkfetch tries a message 16 times (`sources/queue/poison.py`,
MAX_DELIVERIES) and then writes a dead letter with the reason. One that SQS moves has no reason and no row."""

_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class QueueUrls:
    """What SQS calls a queue of invoices (`main`) and the one of its dead letters."""

    main: str
    dead: str


class _Redrive(msgspec.Struct):
    """SQS's RedrivePolicy, which holds the number as a number or as a text."""

    count: int = msgspec.field(name="maxReceiveCount")


async def set_up(sqs: SqsClient, address: SqsAddress, *, create: bool, notify: Listener) -> QueueUrls:
    """The queues of `address`, made where they are missing if `create`, and checked.

    Raises:
        TransientError: SQS did not answer.
        FatalError: one is missing, or set up so that invoices could vanish; the message names setting and fix.
    """
    urls = QueueUrls(
        await _ensured(sqs, address, address.queue, create=create),
        await _ensured(sqs, address, f"{address.queue}-dead", create=create),
    )
    settings = await attributes(sqs, urls.main, "RedrivePolicy", "MessageRetentionPeriod")
    if policy := settings.get("RedrivePolicy"):
        _refuse_early_redrive(sqs.name, policy)
    retention = int(settings.get("MessageRetentionPeriod", RETENTION))
    if retention < RETENTION:
        notify(
            Note(
                "warning",
                f"{sqs.name}: what is not fetched within {retention / _DAY:.3g} days vanishes unseen; set the queue's "
                f"MessageRetentionPeriod to {RETENTION} (14 days)",
            )
        )
    return urls


async def _ensured(sqs: SqsClient, address: SqsAddress, queue: str, *, create: bool) -> str:
    owner: dict[str, Any] = {"QueueOwnerAWSAccountId": address.account} if address.account else {}
    try:
        answer = await sqs.call("get_queue_url", QueueName=queue, **owner)
    except QueueMissing:
        if address.account:
            # SQS makes queues in the credentials' own account alone, which this may not be.
            raise FatalError(
                f"{sqs.name}: there is no queue {queue} in account {address.account}; make it there, or leave the "
                "account out of the URL if it is your own and feed the queue (bulkfetch queue push)"
            ) from None
        if not create:
            raise FatalError(
                f"{sqs.name}: there is no queue {queue} in this account and region (AWS_REGION); feed the queue first "
                "(bulkfetch queue push), which makes it"
            ) from None
        wanted = {"MessageRetentionPeriod": str(RETENTION), "VisibilityTimeout": str(LEASE_SECONDS)}
        answer = await sqs.call("create_queue", QueueName=queue, Attributes=wanted)
    url = answer.get("QueueUrl")
    if not isinstance(url, str):
        raise no_answer(sqs.name)
    return url


def _refuse_early_redrive(name: str, policy: str) -> None:
    try:
        count = msgspec.json.decode(policy, type=_Redrive, strict=False).count
    except msgspec.DecodeError:
        count = 0
    if count < LEAST_RECEIVES:
        raise FatalError(
            f"{name}: the queue's RedrivePolicy has a maxReceiveCount of {count}, so SQS itself would move good "
            f"invoices away, without a reason; set it to {LEAST_RECEIVES} or more, or remove the policy: bulkfetch "
            "has dead letters of its own"
        )
