"""Messages as other producers write them."""

import base64
import json
import re

import pytest

from bulkfetch.models import Delivery, Lease
from bulkfetch.sources.queue.message import read_message

SNS = {"Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:x"}
CLOUD = {"specversion": "1.0", "id": "event-1", "type": "invoice.finalized", "source": "/billing"}
BRIDGE = {"version": "0", "id": "event-1", "detail-type": "Invoice", "source": "billing"}


def read(body, id_at=()):
    """The row of a message that is handed out for the first time."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_message(Lease(body, 1, None, redelivered=False), id_at)


@pytest.mark.parametrize(
    ("body", "invoice_id", "fields"),
    [
        (b"\xef\xbb\xbfa\r\n", "a", {}),
        (b" 4711 ", "4711", {}),
        (b'"a"', "a", {}),
        ({"id": 123}, "123", {}),
        (b'{"id": 9007199254740993, "net": 1.10}', "9007199254740993", {"net": "1.10"}),
        ({"invoice_id": "a"}, "a", {}),
        ({"invoiceId": "a", "type": "x"}, "a", {"type": "x"}),
        ({"id": "a", "fields": {"year": 2024, "none": None, "paid": True}}, "a", {"year": "2024", "paid": "true"}),
        ({"id": "a", "lines": [1], "customer": {"id": "c"}}, "a", {}),
        (b'{\n  "id": "a"\n}\n', "a", {}),
        ({**CLOUD, "data": {"id": "a", "year": 2024}}, "a", {"year": "2024"}),
        ({**CLOUD, "data": "a"}, "a", {}),
        ({**CLOUD, "data_base64": base64.b64encode(b'{"invoice_id":"a"}').decode()}, "a", {}),
        ({**SNS, "Message": "a"}, "a", {}),
        ({**SNS, "Message": '{"id":"a"}'}, "a", {}),
        ({**BRIDGE, "detail": {"invoice_id": 7}}, "7", {}),
        ({**SNS, "Message": json.dumps({**BRIDGE, "detail": {"id": "a"}})}, "a", {}),
    ],
)
def test_an_invoice_is_found_in_its_envelope(body, invoice_id, fields):
    """What producers and the usual services send is read by itself, and an event's own ID is never an invoice's."""
    row = read(body)
    assert isinstance(row, Delivery), row
    assert (row.invoice_id, row.fields) == (invoice_id, fields)


@pytest.mark.parametrize(
    ("body", "id_at", "invoice_id"),
    [
        ({"id": "event-1", "data": {"object": {"id": "a"}}}, ["data.object.id"], "a"),
        ({**CLOUD, "subject": "a"}, ["subject"], "a"),
        ({**SNS, "Message": json.dumps({"bill": {"no": 7}})}, ["Message.bill.no"], "7"),
        ({"no": "a"}, ["number", "no"], "a"),
    ],
)
def test_a_person_may_say_where_it_is(body, id_at, invoice_id):
    """A path leads through objects, and through JSON that is packed as text; the first that is there counts."""
    assert read(body, id_at).invoice_id == invoice_id


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (["a"], "a list"),
        ({"id": 1.5}, "not whole"),
        ({"id": None}, "null"),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent"}, "no member id or invoice_id, but Service, Event"),
        ({"id": "event-1", "type": "invoice", "data": {"object": {"id": "a"}}}, "envelope around data.*id_at"),
        ({"Records": [{"s3": {}}]}, "envelope around Records"),
        ({"id": 1, "invoice_id": "a"}, "two different members"),
        (CLOUD, "CloudEvent without data"),
        ({**BRIDGE, "detail": None}, "without detail"),
        ({**SNS, "Type": "SubscriptionConfirmation", "Message": "x"}, "SubscriptionConfirmation of SNS"),
        (b'{"id":', "truncated"),
        (b"\xff\xfea", "not UTF-8"),
    ],
)
def test_what_is_not_certain_is_no_invoice(body, words):
    """Nothing is guessed; the reason says what the message is, and where to say more."""
    row = read(body)
    assert not isinstance(row, Delivery)
    assert re.search(words, row.message), row.message


def test_a_path_that_leads_nowhere_is_named():
    """The message says which paths were tried."""
    assert "nothing at data.id (id_at" in read({"id": "a"}, ["data.id"]).message
