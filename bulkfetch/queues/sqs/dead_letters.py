"""The dead letters, in a queue of SQS of their own. SQS has no way to look at a message but to lease it."""

from collections.abc import AsyncIterator, Iterable

import anyio
import msgspec

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.models import DeadLetter
from bulkfetch.queues.sqs.messages import MESSAGES, SqsMessages
from bulkfetch.text import printable

LISTING_SECONDS = 600
"""For how long a listed dead letter stays out of every other listing, unless it is put back before."""


class SqsDeadLetters:
    """The dead letters in `messages`. `name` is shown."""

    def __init__(self, name: str, messages: SqsMessages, notify: Listener) -> None:
        self._name = name
        self._messages = messages
        self._notify = notify
        # By dead letter: two equal messages in the queue are one dead letter.
        self._receipts: dict[DeadLetter, list[str]] = {}
        # The messages that our listings keep out of sight, by ID.
        self._hidden: dict[str, str] = {}

    async def put(self, dead_letter: DeadLetter) -> None:
        """Put `dead_letter` durably among the others."""
        await self._messages.send([(dead_letter.invoice_id, msgspec.json.encode(dead_letter).decode())])

    async def count(self) -> int:
        """About how many there are, those that somebody lists at the moment included."""
        return sum(await self._messages.count())

    async def list(self) -> AsyncIterator[DeadLetter]:
        """The dead letters, by the time of failure. SQS knows no order, so all are read before the first is yielded.
        SQS allows 120 000 to be read."""
        try:
            found = await self._read()
            for dead_letter in sorted(found, key=lambda each: each.failed_at):
                yield dead_letter
        finally:
            with anyio.CancelScope(shield=True):
                await self.reveal()

    async def _read(self) -> Iterable[DeadLetter]:
        found: dict[DeadLetter, list[str]] = {}
        seen: set[str] = set()
        while received := await self._messages.receive(MESSAGES, wait=1, lease=LISTING_SECONDS):
            for message in received:
                key, receipt = message["MessageId"], message["ReceiptHandle"]
                self._hidden[key] = receipt
                if key in seen:
                    continue
                seen.add(key)
                try:
                    dead_letter = msgspec.json.decode(message["Body"], type=DeadLetter)
                except (msgspec.DecodeError, RecursionError):
                    self._warn(f"the message {printable(key, 80)} among the dead letters is none")
                else:
                    found.setdefault(dead_letter, []).append(receipt)
        self._receipts.update(found)
        return found

    async def reveal(self) -> None:
        """Put back the messages that listings keep out of sight; also those of a listing that was given up."""
        receipts = list(self._hidden.values())
        self._hidden.clear()
        try:
            await self._messages.end_in(0, receipts)
        except (TransientError, FatalError) as error:
            self._warn(f"dead letters stay out of sight for up to {LISTING_SECONDS} s: {error}")

    def raise_if_unlisted(self, dead_letter: DeadLetter) -> None:
        """Raise if `dead_letter` cannot be removed.

        Raises:
            FatalError: it was not listed here.
        """
        if dead_letter not in self._receipts:
            invoice = printable(dead_letter.invoice_id, 100)
            raise FatalError(f"{self._name}: the dead letter of {invoice} was not listed, or is gone already")

    async def remove(self, dead_letter: DeadLetter) -> None:
        """Remove `dead_letter`, which was listed here."""
        receipts = self._receipts[dead_letter]
        removed = True
        while receipts:
            removed &= await self._messages.delete(receipts[-1])
            receipts.pop()
        self._receipts.pop(dead_letter, None)
        if not removed:
            invoice = printable(dead_letter.invoice_id, 100)
            self._warn(f"the dead letter of {invoice} stays where it is: somebody else has listed it meanwhile")

    def _warn(self, problem: str) -> None:
        self._notify(Note("warning", f"{self._name}: {problem}"))
