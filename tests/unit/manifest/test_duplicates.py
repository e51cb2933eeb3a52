"""Which rows repeat an ID: the same answer as a set in memory would give."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import FatalError
from bulkfetch.manifest import duplicates
from bulkfetch.manifest.duplicates import SeenIds

IDS = st.text("abAB-é€", max_size=3)


@given(st.lists(st.lists(st.tuples(IDS, st.none() | st.integers(1, 99)), max_size=12), max_size=6))
def test_repeats_are_what_a_dictionary_says(tmp_path_factory, batches):
    """Over any batches the rows that repeat an ID, and the line it came first in, are those of a plain dictionary."""
    seen = SeenIds(tmp_path_factory.mktemp("state") / "seen")
    first = {}
    for batch in batches:
        expected = {}
        for index, (invoice_id, line) in enumerate(batch):
            if invoice_id in first:
                expected[index] = first[invoice_id]
            first.setdefault(invoice_id, line)
        assert seen.find_repeats(batch) == expected
    seen.close()


def test_two_ids_with_one_mark_are_no_duplicates(tmp_path, monkeypatch):
    """An ID is a duplicate only if it was met itself, in memory or on disk, whatever else has its bit."""
    monkeypatch.setattr(duplicates, "_FILTER_BITS", 8)
    monkeypatch.setattr(duplicates, "_GATHERED", 50)
    seen = SeenIds(tmp_path / "seen")
    for start in range(0, 400, 20):
        rows = [(f"INV-{number}", number) for number in range(start, start + 20)]
        assert seen.find_repeats([*rows, ("INV-0", 999)]) == {20: 0}
    assert seen.find_repeats([(f"INV-{number}", 1000) for number in range(400)]) == {n: n for n in range(400)}
    seen.close()


def test_nothing_is_left_behind(tmp_path):
    """The file has no name even while it is in use, so a process that is killed leaves nothing."""
    seen = SeenIds(tmp_path / "seen")
    seen.find_repeats([(f"INV-{number}", number) for number in range(20_000)])
    assert list(tmp_path.iterdir()) == []
    assert seen.find_repeats([("INV-7", 1)]) == {0: 7}
    seen.close()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    """Where the file cannot be made the run stops with a word about it."""
    with pytest.raises(FatalError, match="IDs seen"):
        SeenIds(tmp_path / "missing" / "seen")


def test_a_full_disk_says_what_to_do(tmp_path):
    """When SQLite finds the disk full, the error says how to go on, as it does for every other file."""
    seen = SeenIds(tmp_path / "seen")
    seen._connection.execute("PRAGMA max_page_count = 4")
    with pytest.raises(FatalError, match=r"cannot be used: the disk is full; free some space"):
        seen.find_repeats([(f"INV-{number}", number) for number in range(20_000)])
