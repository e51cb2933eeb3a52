"""Which rows need no fetching, and what the store is asked for."""

import pytest

from bulkfetch.errors import Reason
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Delivery, Entry, Malformed, ObjectMeta
from bulkfetch.pipeline.triage import Looks, Triage

pytestmark = pytest.mark.anyio


class GivenHistory:
    """Knows the entries that it is given, and what it was asked about."""

    def __init__(self, *ids):
        self.entries = {each: Entry(f"{each}.pdf", 7, "ab" * 32) for each in ids}
        self.seen = {}

    async def stored(self, ids):
        return {each: self.entries[each] for each in ids if each in self.entries}

    async def find_repeats(self, rows):
        found = {}
        for index, (invoice_id, line) in enumerate(rows):
            if invoice_id in self.seen:
                found[index] = self.seen[invoice_id]
            else:
                self.seen[invoice_id] = line
        return found


class GivenStore:
    """Holds objects of seven bytes under the keys that it is given; `asked` are the keys it was asked for."""

    def __init__(self, *keys):
        self.keys, self.asked = keys, []

    async def head(self, keys):
        self.asked += keys
        return [ObjectMeta(key, 7) if key in self.keys else None for key in keys]


def triage(history, store=None, *, template="{id}.pdf", repeats=False, stored=True, unrecorded=False):
    looks = Looks(head=store.head, stored=stored, unrecorded=unrecorded) if store else None
    return Triage(history=history, keys=KeyTemplate.parse(template), repeats=repeats, looks=looks)


async def test_each_row_goes_one_way():
    """Malformed, unusable, duplicate, stored, to fetch: each row is in exactly one list, in the input's order."""
    malformed = Malformed("?", Reason.INVALID_ID, "no", 1)
    rows = [
        malformed,
        *(Delivery(each, line, {"year": "2024"}) for line, each in enumerate("abac", 2)),
        Delivery("d", 6),
    ]
    result = await triage(GivenHistory("b"), template="{fields[year]}/{id}.pdf").sort(rows)
    assert result.malformed == [malformed]
    assert [(each.line, first) for each, first in result.duplicates] == [(4, 2)]
    assert [each.invoice_id for each, _ in result.stored] == ["b"]
    assert [(each.invoice_id, error.reason) for each, error in result.unusable] == [("d", Reason.INVALID_ROW)]
    assert [each.invoice_id for each, _, _ in result.to_fetch] == ["a", "c"]


async def test_a_row_alone_is_no_object():
    """What an earlier run stored and the store does not hold any more is fetched again."""
    store = GivenStore("a.pdf")
    result = await triage(GivenHistory("a", "b"), store).sort([Delivery("a"), Delivery("b")])
    assert [each.invoice_id for each, _ in result.stored] == ["a"]
    assert [each.invoice_id for each, _, _ in result.to_fetch] == ["b"]


async def test_a_queue_has_no_duplicates():
    """The same ID twice is a message that was delivered again."""
    result = await triage(GivenHistory(), repeats=True).sort([Delivery("a"), Delivery("a")])
    assert [key for _, key, _ in result.to_fetch] == ["a.pdf"] * 2


@pytest.mark.parametrize(("unrecorded", "asked"), [(False, ["b.pdf"]), (True, ["a.pdf", "b.pdf"])])
async def test_where_an_object_without_a_row_is_looked_for(unrecorded, asked):
    """Under every key after a run that died; else only for rows that were handed out before."""
    store = GivenStore("b.pdf")
    rows = [Delivery("a"), Delivery("b", redelivered=True)]
    result = await triage(GivenHistory(), store, unrecorded=unrecorded).sort(rows)
    assert store.asked == asked
    assert [adopt for _, _, adopt in result.to_fetch] == [False, True]


async def test_nothing_is_adopted_where_two_invoices_can_have_one_key():
    """There an object may be another invoice's: only its bytes can tell."""
    store = GivenStore("2024.pdf")
    rows = [Delivery("a", fields={"year": "2024"}, redelivered=True)]
    result = await triage(GivenHistory(), store, template="{fields[year]}.pdf", unrecorded=True).sort(rows)
    assert [adopt for _, _, adopt in result.to_fetch] == [False]
    assert store.asked == []
