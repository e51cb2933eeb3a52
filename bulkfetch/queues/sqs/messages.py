"""The messages in one queue of SQS: its calls, for the invoices' queue and for the dead letters'."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bulkfetch.queues.sqs.client import SqsClient, attributes, for_each
from bulkfetch.queues.sqs.errors import ENDED, LeaseEnded, check_batch, no_answer

MESSAGES = 10
"""Messages that SQS takes or gives in one call at most."""

BATCH_BYTES = 256 * 1024
"""Bytes of messages in one call at most: what every region and every older queue takes."""

# SQS takes the characters of XML. JSON escapes the others by itself, save for these two, and no ID has them.
_ESCAPES = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}

_COPY = "bulkfetch-copy"
"""The attribute of a message that replaces a released one: how many deliveries of the original count."""

_COUNTS = tuple(f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed"))


class SqsMessages:
    """The messages of the queue that SQS calls `queue_url`. A received message is named by its receipt.

    Raises (all calls):
        TransientError, FatalError: see `sqs_errors`.
    """

    def __init__(self, sqs: SqsClient, queue_url: str) -> None:
        self._sqs = sqs
        self._url = queue_url

    async def send(self, messages: Iterable[tuple[str, str]]) -> None:
        """Send `messages`, pairs of invoice ID and text: on return SQS has all of them, after an error perhaps some."""
        await for_each(_batches((invoice_id, text.translate(_ESCAPES)) for invoice_id, text in messages), self._send)

    async def _send(self, batch: Sequence[tuple[str, str]]) -> None:
        entries = [{"Id": str(number), "MessageBody": text} for number, (_, text) in enumerate(batch)]
        answer = await self._sqs.call("send_message_batch", QueueUrl=self._url, Entries=entries)
        check_batch(self._sqs.name, answer, [f"the message of {invoice_id}" for invoice_id, _ in batch])

    async def receive(self, limit: int, *, wait: int, lease: int) -> Sequence[Mapping[str, Any]]:
        """Up to `limit` messages as SQS gives them, ten at most, waited for `wait` seconds and leased for `lease`."""
        answer = await self._sqs.call(
            "receive_message",
            patience=wait,
            QueueUrl=self._url,
            MaxNumberOfMessages=min(limit, MESSAGES),
            WaitTimeSeconds=wait,
            VisibilityTimeout=lease,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
            MessageAttributeNames=[_COPY],
        )
        received: Sequence[Mapping[str, Any]] = answer.get("Messages", ())
        return received

    async def replace(self, receipt: str, text: str, delay: int, *, deliveries: int) -> None:
        """Replace a message by a copy with the same `text`, to be received in `delay` seconds.

        SQS never forgets how often it handed out a message. It counts a copy from the start, so the copy says how many
        `deliveries` of the original count. The copy is sent first, so for a moment both are in the queue."""
        mark = {_COPY: {"DataType": "Number", "StringValue": str(deliveries)}}
        await self._sqs.call(
            "send_message", QueueUrl=self._url, MessageBody=text, DelaySeconds=delay, MessageAttributes=mark
        )
        await self.delete(receipt)

    async def delete(self, receipt: str) -> bool:
        """Remove a message. False where SQS says that its lease had ended: then the message may still be there."""
        try:
            await self._sqs.call("delete_message", QueueUrl=self._url, ReceiptHandle=receipt)
        except LeaseEnded:
            return False
        return True

    async def end_in(self, seconds: int, receipts: Sequence[str]) -> None:
        """Let the leases of `receipts` end in `seconds` from now. A lease that has ended already stays so."""

        async def change(batch: Sequence[str]) -> None:
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                for number, receipt in enumerate(batch)
            ]
            answer = await self._sqs.call("change_message_visibility_batch", QueueUrl=self._url, Entries=entries)
            check_batch(self._sqs.name, answer, ["a lease"] * len(batch), ignored=ENDED)

        await for_each((receipts[start : start + MESSAGES] for start in range(0, len(receipts), MESSAGES)), change)

    async def count(self) -> tuple[int, int]:
        """About how many messages wait, and how many are leased or put off."""
        found = await attributes(self._sqs, self._url, *_COUNTS)
        try:
            waiting, leased, delayed = (int(found[name]) for name in _COUNTS)
        except (KeyError, ValueError):
            # A number taken for zero would end a worker.
            raise no_answer(self._sqs.name) from None
        return waiting, leased + delayed


def _batches(messages: Iterable[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    """`messages` in groups that one call takes. A message that is too large by itself goes alone, for SQS to refuse."""
    batch: list[tuple[str, str]] = []
    size = 0
    for invoice_id, text in messages:
        length = len(text.encode())
        if batch and (len(batch) == MESSAGES or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((invoice_id, text))
        size += length
    if batch:
        yield batch


def received_before(message: Mapping[str, Any]) -> bool:
    """Whether `message`, which `receive` gave, may have been in somebody's hands before."""
    return _receives(message) > 1 or _COPY in message.get("MessageAttributes", {})


def deliveries(message: Mapping[str, Any]) -> int:
    """How often `message`, which `receive` gave, was handed out to be tried. If it is a copy, the deliveries of its
    original that count are included."""
    copied = message.get("MessageAttributes", {}).get(_COPY, {}).get("StringValue", "")
    # Anybody may send such an attribute.
    return _receives(message) + (int(copied) if re.fullmatch("[0-9]{1,6}", copied) else 0)


def _receives(message: Mapping[str, Any]) -> int:
    return int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
