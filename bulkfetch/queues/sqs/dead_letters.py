"""Dead letters that wait in a queue of SQS, which knows no way to look at a message but to lease it."""

from collections.abc import AsyncIterator, Iterable

import anyio
import msgspec

from bulkfetch.errors import FatalError, TransientError
from bulkfetch.events import Listener, Note
from bulkfetch.models import DeadLetter
from bulkfetch.queues.sqs.messages import MESSAGES, SqsMessages
from bulkfetch.text import safe

LISTING_SECONDS = 600
"""For how long a letter that is listed stays out of every other listing, unless it is put back before."""


class SqsLetters:
    """The dead letters in `messages`. `name` is shown."""

    def __init__(self, name: str, messages: SqsMessages, notify: Listener) -> None:
        self._name = name
        self._messages = messages
        self._notify = notify
        # By letter, as what is in the queue twice is one letter.
        self._receipts: dict[DeadLetter, list[str]] = {}
        # By the message's ID: what is out of sight.
        self._hidden: dict[str, str] = {}

    async def put(self, letter: DeadLetter) -> None:
        """Put `letter` durably among the others."""
        await self._messages.send([(letter.invoice_id, msgspec.json.encode(letter).decode())])

    async def list(self) -> AsyncIterator[DeadLetter]:
        """The letters, by the time of failure. All are read before the first is given, as SQS knows no order; it lets
        120 000 be read."""
        try:
            found = await self._read()
            for letter in sorted(found, key=lambda letter: letter.failed_at):
                yield letter
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
                    letter = msgspec.json.decode(message["Body"], type=DeadLetter)
                except (msgspec.DecodeError, RecursionError):
                    self._warn(f"the message {safe(key, 80)} among the dead letters is none")
                else:
                    found.setdefault(letter, []).append(receipt)
        self._receipts.update(found)
        return found

    async def reveal(self) -> None:
        """Put back into sight what listings took out of it; also where one was given up."""
        receipts = list(self._hidden.values())
        self._hidden.clear()
        try:
            await self._messages.end_in(0, receipts)
        except (TransientError, FatalError) as error:
            self._warn(f"dead letters stay out of sight for up to {LISTING_SECONDS} s: {error}")

    def check_listed(self, letter: DeadLetter) -> None:
        """See that `letter` can be removed.

        Raises:
            FatalError: it was not listed here.
        """
        if letter not in self._receipts:
            invoice = safe(letter.invoice_id, 100)
            raise FatalError(f"{self._name}: the dead letter of {invoice} was not listed, or is gone already")

    async def remove(self, letter: DeadLetter) -> None:
        """Remove `letter`, which was listed here."""
        receipts = self._receipts[letter]
        removed = True
        while receipts:
            removed &= await self._messages.delete(receipts[-1])
            receipts.pop()
        self._receipts.pop(letter, None)
        if not removed:
            invoice = safe(letter.invoice_id, 100)
            self._warn(f"the dead letter of {invoice} stays where it is: somebody else has listed it meanwhile")

    def _warn(self, words: str) -> None:
        self._notify(Note("warning", f"{self._name}: {words}"))
