"""What workers make of a message's body."""

import pytest

from bulkfetch.models import Delivery, Lease, Malformed
from bulkfetch.sources.queue.message import encode_message, read_message
from bulkfetch.sources.raw import RAW_LIMIT


def read(body):
    """The row of a message that is handed out for the first time."""
    return read_message(Lease(body, 1, None, redelivered=False))


@pytest.mark.parametrize("fields", [{}, {"year": "2024", "number": "R-1"}])
def test_what_is_encoded_is_read_back(fields):
    """ID and fields arrive as they were sent."""
    row = read(encode_message(Delivery("A-1", fields=fields)))
    assert (row.invoice_id, row.fields) == ("A-1", fields)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"\xff", b"\\xff"),
        (b"{\x00", b"{\\u0000"),
        (b"{" + b"x" * 1000 + b"1", b"{" + b"x" * 1000 + b"2"),
    ],
)
def test_messages_that_cannot_be_used_stay_apart(one, other):
    """Bodies that would be shown alike are shown differently: a dead letter is filed under the text shown."""
    first, second = read(one), read(other)
    assert isinstance(first, Malformed)
    assert isinstance(second, Malformed)
    assert first.raw != second.raw
    assert max(len(first.raw), len(second.raw)) <= RAW_LIMIT
