"""What the body of a queue's message holds: written by `queue push`, read by the workers."""

import hashlib

import msgspec

from bulkfetch.errors import Reason
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import NO_FIELDS, Delivery, InputRow, Lease, Malformed
from bulkfetch.sources.raw import RAW_LIMIT, raw_text


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A message's body, as JSON: `id` is the invoice, `fields` what else its input row says of it."""

    id: str
    fields: dict[str, str] = {}


_decode = msgspec.json.Decoder(Message).decode


def encode_message(delivery: Delivery) -> bytes:
    """The body that brings `delivery` to a worker."""
    return msgspec.json.encode(Message(delivery.invoice_id, dict(delivery.fields)))


def read_message(lease: Lease) -> InputRow:
    """The input row that the body of `lease` holds; the row's `tag` is `lease`."""
    try:
        message = _decode_body(lease.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = f"the message is neither an ID nor a JSON object with an id: {error}"
        return _rejected(lease, Reason.INVALID_ROW, problem)
    if unusable := check_invoice_id(message.id):
        return _rejected(lease, Reason.INVALID_ID, unusable)
    return Delivery(message.id, fields=message.fields or NO_FIELDS, tag=lease, redelivered=lease.redelivered)


def _decode_body(body: bytes) -> Message:
    # A producer that is not bulkfetch may send the bare ID.
    text = body.strip(b" \t\r\n")
    return _decode(text) if text.startswith(b"{") else Message(text.decode())


def _rejected(lease: Lease, reason: Reason, problem: str) -> Malformed:
    shown = raw_text(lease.body)
    if shown.encode() != lease.body:
        # The dead letter is filed under the text shown, and another message may begin with the same bytes.
        digest = hashlib.blake2b(lease.body, digest_size=8).hexdigest()
        shown = f"{raw_text(lease.body, RAW_LIMIT - len(digest) - 2)} #{digest}"
    return Malformed(shown, reason, problem, tag=lease)
