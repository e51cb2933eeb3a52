"""The dead letters of a JetStream queue: a stream of their own, with one message for each invoice."""

from collections.abc import AsyncIterator

import msgspec
from nats.js.api import RawStreamMsg

from bulkfetch.events import Listener, Note
from bulkfetch.models import DeadLetter
from bulkfetch.queues.jetstream.connection import NatsConnection
from bulkfetch.queues.jetstream.errors import none_if_missing
from bulkfetch.queues.jetstream.setup import StreamNames

_ROOM = 4096
"""Bytes of a dead letter beside the message that it keeps."""


class JetStreamDeadLetters:
    """The dead letters in the stream `names.dead`.

    Raises (all calls):
        TransientError, FatalError: see `NatsConnection.asking`.
    """

    def __init__(self, connection: NatsConnection, names: StreamNames, notify: Listener) -> None:
        self._connection = connection
        self._names = names
        self._notify = notify

    async def put(self, dead_letter: DeadLetter) -> None:
        """Put `dead_letter` durably in the place of any other one of its invoice. A message too large to be kept in it
        is replaced by the invoice's ID."""
        payload = msgspec.json.encode(dead_letter)
        if len(payload) > self._connection.client.max_payload - _ROOM:
            why = f"{dead_letter.message or dead_letter.reason} (the message itself was too large to be kept)"
            payload = msgspec.json.encode(
                msgspec.structs.replace(dead_letter, body=dead_letter.invoice_id, message=why)
            )
        with self._connection.asking():
            subject = self._names.dead_subject(dead_letter.invoice_id)
            await self._connection.js.publish(subject, payload, stream=self._names.dead)

    async def list(self) -> AsyncIterator[DeadLetter]:
        """The dead letters that are there when the first is asked for, oldest first."""
        with self._connection.asking():
            # A message that is queued again while we read, and fails again, makes a new dead letter.
            last = (await self._connection.js.stream_info(self._names.dead)).state.last_seq
        sequence = 0
        while message := await self._next(sequence + 1):
            sequence = message.seq or 0
            if sequence > last:
                return
            try:
                dead_letter = msgspec.json.decode(message.data or b"", type=DeadLetter)
            except msgspec.DecodeError:
                self._notify(Note("warning", f"{self._names.dead}: message {sequence} is no dead letter"))
            else:
                yield dead_letter

    async def _next(self, sequence: int) -> RawStreamMsg | None:
        with self._connection.asking():
            return await none_if_missing(
                self._connection.js.get_msg(self._names.dead, sequence, self._names.dead_subjects, next=True)
            )

    async def find(self, invoice_id: str) -> RawStreamMsg | None:
        """The dead letter of an invoice, as the stream keeps it; None if there is none."""
        with self._connection.asking():
            return await none_if_missing(
                self._connection.js.get_last_msg(self._names.dead, self._names.dead_subject(invoice_id))
            )

    async def remove(self, invoice_id: str, found: RawStreamMsg | None) -> None:
        """Remove the dead letter `found` (None: nothing to do). A newer dead letter of the same invoice stays."""
        if found is None or found.seq is None:
            return
        with self._connection.asking():
            subject = self._names.dead_subject(invoice_id)
            await self._connection.js.purge_stream(self._names.dead, seq=found.seq + 1, subject=subject)
