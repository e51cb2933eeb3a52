"""What is to become of a batch of rows: by what history and store say, in the input's order."""

import pytest
from anyio import to_thread
from support.doubles import GivenHistory
from support.rows import clock, row
from support.runs import accept

from bulkfetch.errors import Reason, UsageError
from bulkfetch.keys import KeyTemplate
from bulkfetch.manifest import ManifestWriter
from bulkfetch.manifest.history import SnapshotHistory
from bulkfetch.models import Delivery, Entry, Malformed, ObjectMeta
from bulkfetch.pipeline.triage import Looks, Triage
from bulkfetch.stores.local.heads import LocalHeads

pytestmark = pytest.mark.anyio

STORED = {invoice_id: Entry(f"{invoice_id}.pdf", 7, "ab" * 32) for invoice_id in ("old", "gone", "cut")}


def triage(history=None, *, key="{id}.pdf", repeats=False, looks=None):
    """A triage over `history`; without one nothing is stored."""
    return Triage(history=history or GivenHistory(), keys=KeyTemplate.parse(key), repeats=repeats, looks=looks)


def there(*keys, size=7):
    """A store that holds `keys`, and notes in the list what it is asked for."""
    asked = []

    async def head(wanted):
        asked.extend(wanted)
        return [ObjectMeta(key, size) if key in keys else None for key in wanted]

    return head, asked


async def test_each_row_is_in_one_place():
    """Malformed rows, rows without a key, duplicates, stored rows and the others are told apart, in order."""
    bad = Malformed("a/b", Reason.INVALID_ID, "a slash", 2)
    rows = [
        Delivery("new", 1, {"of": "x"}),
        bad,
        Delivery("keyless", 3),
        Delivery("new", 4, {"of": "x"}),
        Delivery("old", 5),
        Delivery("newer", 6, {"of": "y"}),
    ]
    found = await triage(GivenHistory(STORED), key="{fields[of]}/{id}.pdf").sort(rows)
    assert found.malformed == [bad]
    assert [(row.line, error.reason) for row, error in found.unusable] == [(3, Reason.INVALID_ROW)]
    assert [(row.line, first) for row, first in found.duplicates] == [(4, 1)]
    assert [(row.line, entry.key) for row, entry in found.stored] == [(5, "old.pdf")]
    assert [(row.line, key, adopt) for row, key, adopt in found.to_fetch] == [
        (1, "x/new.pdf", False),
        (6, "y/newer.pdf", False),
    ]


async def test_duplicates_are_found_across_batches_unless_the_source_may_repeat():
    """An ID of an earlier batch is a duplicate of its first line; from a queue it is simply there again."""
    for repeats, expected in ((False, [("a", 1)]), (True, [])):
        sorter = triage(repeats=repeats)
        await sorter.sort([Delivery("a", 1)])
        found = await sorter.sort([Delivery("a", 2), Delivery("b", 3)])
        assert [(row.invoice_id, line) for row, line in found.duplicates] == expected
        assert len(found.to_fetch) == 2 - len(expected)


async def test_a_duplicate_of_a_stored_invoice_is_a_duplicate():
    """The first row is skipped as stored, the second as its duplicate."""
    found = await triage(GivenHistory(STORED)).sort([Delivery("old", 1), Delivery("old", 2)])
    assert ([row.line for row, _ in found.stored], [row.line for row, _ in found.duplicates]) == ([1], [2])


async def test_what_is_gone_or_cut_is_fetched_anew():
    """A row alone is not an object: where the store is asked, one with another size or none at all is fetched."""
    head, asked = there("old.pdf")
    rows = [Delivery(invoice_id) for invoice_id in ("old", "gone", "new")]
    looks = Looks(head=head, stored=True, unrecorded=False)
    found = await triage(GivenHistory(STORED), looks=looks).sort(rows)
    assert [row.invoice_id for row, _ in found.stored] == ["old"]
    assert [row.invoice_id for row, _, _ in found.to_fetch] == ["gone", "new"]
    assert asked == ["old.pdf", "gone.pdf"]
    head, _ = there("cut.pdf", size=6)
    looks = Looks(head=head, stored=True, unrecorded=False)
    assert (await triage(GivenHistory(STORED), looks=looks).sort([Delivery("cut")])).stored == []


async def test_a_manifest_is_believed_where_looking_costs_too_much():
    """Where what is stored is not looked for, nothing is asked of the store."""
    head, asked = there()
    looks = Looks(head=head, stored=False, unrecorded=False)
    found = await triage(GivenHistory(STORED), looks=looks).sort([Delivery("gone")])
    assert [row.invoice_id for row, _ in found.stored] == ["gone"]
    assert asked == []


async def test_objects_without_a_row_are_marked():
    """After a run that died each key is looked at; else only those of rows that were handed out before."""
    rows = [Delivery("one"), Delivery("two", redelivered=True), Delivery("three", redelivered=True)]
    for unrecorded, expected in ((True, [True, True, False]), (False, [False, True, False])):
        head, _ = there("one.pdf", "two.pdf")
        looks = Looks(head=head, stored=True, unrecorded=unrecorded)
        found = await triage(looks=looks).sort(rows)
        assert [adopt for _, _, adopt in found.to_fetch] == expected


async def test_what_two_invoices_could_share_is_not_taken_for_either():
    """Where two IDs can have one key nobody looks: what lies there may be another invoice's."""
    head, asked = there("i.pdf")
    looks = Looks(head=head, stored=True, unrecorded=True)
    found = await triage(key="{id[:1]}.pdf", looks=looks).sort([Delivery("i1")])
    assert [adopt for _, _, adopt in found.to_fetch] == [False]
    assert asked == []


async def test_of_what_lies_there_only_a_whole_pdf_is_found_where_nobody_looks_later():
    """A plan counts as a run does, which takes over no other object."""
    head, _ = there("one.pdf", "two.pdf")

    async def whole(keys):
        return [key == "two.pdf" for key in keys]

    looks = Looks(head=head, stored=True, unrecorded=True, whole=whole)
    found = await triage(looks=looks).sort([Delivery("one"), Delivery("two"), Delivery("three")])
    assert [adopt for _, _, adopt in found.to_fetch] == [False, True, False]


async def test_what_would_have_another_key_today_is_told():
    """A stored invoice stays where it is; the key of the template in force is given beside it, unless it is the same
    but for a digest or the spelling of a folder."""
    stored = {
        "same": Entry("A/same.pdf", 7, "ab" * 32),
        "spelt": Entry("a/spelt.pdf", 7, "ab" * 32),
        "met": Entry(KeyTemplate.parse("{fields[of]}/{id}.pdf").alternative("met", {"of": "A"}), 7, "ab" * 32),
        "moved": Entry("B/moved.pdf", 7, "ab" * 32),
        "keyless": Entry("B/keyless.pdf", 7, "ab" * 32),
    }
    rows = [Delivery(name, 1, {"of": "" if name == "keyless" else "A"}) for name in stored]
    found = await triage(GivenHistory(stored), key="{fields[of]}/{id}.pdf").sort(rows)
    assert (len(found.stored), found.moved) == (5, {"moved": "A/moved.pdf"})


async def test_a_column_that_no_row_of_the_first_batch_has_is_a_mistake():
    """It ends the run with the command line's exit code; a column that some rows have, or that a queue's rows lack, is
    theirs."""
    lacking = [Delivery("a", 1, {"Kunde": "x"}), Delivery("b", 2)]
    with pytest.raises(UsageError, match="no column is called 'Kunda'; did you mean 'Kunde'"):
        await triage(key="{fields[Kunda]}/{id}.pdf").sort(lacking)
    for sorter in (triage(key="{fields[Kunde]}/{id}.pdf"), triage(key="{fields[Kunda]}/{id}.pdf", repeats=True)):
        assert [row.line for row, _ in (await sorter.sort(lacking)).unusable][-1] == 2
    sorter = triage(key="{fields[Kunde]}/{id}.pdf")
    await sorter.sort([Malformed("a/b", Reason.INVALID_ID, "a slash", 1)])
    await sorter.sort(lacking[:1])
    assert len((await sorter.sort(lacking[1:])).unusable) == 1


async def test_a_real_directory_is_looked_at_and_left_alone(tmp_path):
    """A directory that is missing holds nothing and is not made; a symlink and a directory are no objects."""
    looks = Looks(head=LocalHeads(tmp_path / "archive").head, stored=True, unrecorded=True)
    rows = [Delivery(invoice_id) for invoice_id in ("b1", "a1", "b2", "a2", "a3", "c1")]
    async with SnapshotHistory.open(tmp_path / "archive", seen=tmp_path / "seen") as history:
        found = await triage(history, key="{id[:1]}/{id}.pdf", looks=looks).sort(rows)
    assert [adopt for _, _, adopt in found.to_fetch] == [False] * 6
    assert list(tmp_path.iterdir()) == []
    for key in ("a/a1.pdf", "b/b2.pdf"):
        (tmp_path / "archive" / key).parent.mkdir(parents=True)
        (tmp_path / "archive" / key).write_bytes(b"%PDF")
    (tmp_path / "archive/a/a2.pdf").symlink_to("a1.pdf")
    (tmp_path / "archive/a/a3.pdf").mkdir()
    (tmp_path / "archive/c").symlink_to("a")
    async with SnapshotHistory.open(tmp_path / "archive", seen=tmp_path / "seen") as history:
        found = await triage(history, key="{id[:1]}/{id}.pdf", looks=looks).sort(rows)
    assert [row.invoice_id for row, _, adopt in found.to_fetch if adopt] == ["a1", "b2"]


async def test_what_will_not_come_is_not_fetched(tmp_path):
    """An accepted gap needs neither a key nor a look at the store; a repeated row of it is a duplicate. What is stored
    is no gap; its object is fetched again if it is gone."""
    async with ManifestWriter.open(tmp_path, clock=clock) as manifest:
        await manifest.append([row("there"), row("gone")])
    await to_thread.run_sync(accept, tmp_path, ["a", "there", "gone", "b"], "will not come")
    await to_thread.run_sync(accept, tmp_path, ["b"], None)
    head, asked = there("there.pdf")
    looks = Looks(head=head, stored=True, unrecorded=False)
    deliveries = [Delivery(name, line) for line, name in enumerate(("a", "there", "gone", "b", "a"), 1)]
    async with SnapshotHistory.open(tmp_path, seen=tmp_path / "seen") as history:
        found = await triage(history, looks=looks).sort(deliveries)
    assert [(each.line, why) for each, why in found.accepted] == [(1, "will not come")]
    assert [each.line for each, _ in found.stored] == [2]
    assert [each.line for each, _, _ in found.to_fetch] == [3, 4]
    assert [(each.line, first) for each, first in found.duplicates] == [(5, 1)]
    assert sorted(asked) == ["gone.pdf", "there.pdf"]
