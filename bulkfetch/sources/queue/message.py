"""What the body of a queue's message holds: written by `queue push`, read by the workers."""

import hashlib
from collections.abc import Sequence

import msgspec

from bulkfetch.errors import Reason
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import NO_FIELDS, Delivery, InputRow, Lease, Malformed
from bulkfetch.sources.queue.envelopes import open_message
from bulkfetch.sources.raw import RAW_LIMIT, raw_text


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message's body as `queue push` writes it: `id` is the invoice, `fields` what else its input row says of it."""

    id: str
    fields: dict[str, str] = {}


def encode_message(delivery: Delivery) -> bytes:
    """The body that brings `delivery` to a worker."""
    return msgspec.json.encode(Message(delivery.invoice_id, dict(delivery.fields)))


def read_message(lease: Lease, id_at: Sequence[str] = ()) -> InputRow:
    """The input row that the body of `lease` holds, at one of the paths `id_at` if there are any; the row's `tag` is
    `lease`."""
    try:
        invoice_id, fields = open_message(lease.body.decode(), id_at)
    except UnicodeDecodeError as error:
        return _rejected(lease, Reason.INVALID_ROW, f"the message is not UTF-8 from byte {error.start + 1} on")
    except ValueError as error:
        return _rejected(lease, Reason.INVALID_ROW, str(error))
    if unusable := check_invoice_id(invoice_id):
        return _rejected(lease, Reason.INVALID_ID, unusable)
    return Delivery(invoice_id, fields=fields or NO_FIELDS, tag=lease, redelivered=lease.redelivered)


def _rejected(lease: Lease, reason: Reason, problem: str) -> Malformed:
    shown = raw_text(lease.body)
    if shown.encode() != lease.body:
        # The dead letter is filed under the text shown, and another message may begin with the same bytes.
        digest = hashlib.blake2b(lease.body, digest_size=8).hexdigest()
        shown = f"{raw_text(lease.body, RAW_LIMIT - len(digest) - 2)} #{digest}"
    return Malformed(shown, reason, problem, tag=lease)
