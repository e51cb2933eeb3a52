"""The ledger: an index that always agrees with the manifests, whatever happened to its file."""

import sqlite3

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import FatalError
from bulkfetch.manifest import LedgerIndex, decode_row, encode_rows
from bulkfetch.models import Entry, Outcome, Reason, Row

RUN = "20250101T000000Z-000001"
LATER = "20250102T000000Z-000002"
DIGEST = "cd" * 32


def row(invoice_id, outcome=Outcome.STORED, *, size=1, reason=None, sha256=DIGEST):
    return Row(
        run=RUN, invoice_id=invoice_id, outcome=outcome, reason=reason, key=f"{invoice_id}.pdf", size=size,
        sha256=sha256, started_at="", finished_at="",
    )  # fmt: skip


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".bulkfetch").mkdir()
    (tmp_path / "manifests").mkdir()
    return tmp_path


def write(root, run, *rows):
    with (root / "manifests" / f"{run}.jsonl").open("ab") as file:
        file.write(encode_rows(rows))


def ask(root, *ids):
    ledger = LedgerIndex.open(root)
    try:
        return ledger.stored(ids)
    finally:
        ledger.close()


def test_only_stored_rows_count_whatever_their_reason(root):
    """Stored and adopted rows are found; skipped, failed and rejected ones are not."""
    write(root, RUN, row("a"), row("b", reason=Reason.ADOPTED), row("c", Outcome.FAILED), row("d", Outcome.SKIPPED))
    assert ask(root, "a", "b", "c", "d", "e") == {name: Entry(f"{name}.pdf", 1, DIGEST) for name in ("a", "b")}


def test_the_bytes_that_were_refused_last(root):
    """The newest failed row tells which bytes came, if any did; of what is stored nothing was refused."""
    write(root, RUN, row("a", Outcome.FAILED), row("b"), row("c", Outcome.FAILED, sha256="cd" * 32))
    write(root, LATER, row("a", Outcome.FAILED, sha256="ab" * 32), row("c", Outcome.FAILED, sha256=None))
    ledger = LedgerIndex.open(root)
    assert [ledger.refused(name) for name in "abcd"] == ["ab" * 32, None, None, None]
    ledger.close()


def test_a_later_row_replaces_an_earlier_one(root):
    """Of two rows for one invoice the later run's is the one that holds."""
    write(root, LATER, row("a", size=2))
    write(root, RUN, row("a", size=1))
    assert ask(root, "a")["a"].size == 2


def test_only_the_unread_tail_is_read(root):
    """What is indexed already is not read again: damage done to it since goes unnoticed here, new rows do not."""
    write(root, RUN, row("a"))
    ask(root)
    path = root / "manifests" / f"{RUN}.jsonl"
    path.write_bytes(b"x" * (path.stat().st_size - 1) + b"\n")
    write(root, RUN, row("b"))
    assert set(ask(root, "a", "b")) == {"a", "b"}


@pytest.mark.parametrize("suffix", ["gone", "garbage", "empty", "older layout"])
def test_a_lost_or_damaged_file_is_built_anew(root, suffix):
    """The ledger's file can be deleted, overwritten or of another version: the manifests bring it back."""
    write(root, RUN, row("a"))
    ask(root)
    file = root / ".bulkfetch" / "ledger.sqlite3"
    if suffix == "older layout":
        connection = sqlite3.connect(file)
        connection.executescript("DROP TABLE invoices; PRAGMA user_version = 99")
        connection.close()
    else:
        file.unlink()
        if suffix != "gone":
            file.write_bytes(b"no database " * 1000 if suffix == "garbage" else b"")
    assert set(ask(root, "a")) == {"a"}


def test_damage_met_while_running_is_mended(root):
    """A page that turns out to be damaged in the middle of a run is answered from the manifests."""
    names = [f"INV-{number:06d}" for number in range(5000)]
    write(root, RUN, *(row(name) for name in names))
    ask(root)
    file = root / ".bulkfetch" / "ledger.sqlite3"
    ledger = LedgerIndex.open(root)
    data = bytearray(file.read_bytes())
    data[8192:-4096] = b"\xff" * (len(data) - 12288)
    file.write_bytes(data)
    assert len(ledger.stored(names)) == 5000
    ledger.close()


@pytest.mark.parametrize("change", ["shorter", "removed"])
def test_a_manifest_that_shrank_starts_the_ledger_anew(root, change):
    """Rows that no manifest holds any more are not claimed to be stored."""
    write(root, RUN, row("a"))
    write(root, LATER, row("b"), row("c"))
    ask(root)
    path = root / "manifests" / f"{LATER}.jsonl"
    path.unlink()
    if change == "shorter":
        write(root, LATER, row("b"))
    assert set(ask(root, "a", "b", "c")) == ({"a", "b"} if change == "shorter" else {"a"})


def test_the_owner_of_a_key(root):
    """A key leads to the invoice that is stored under it."""
    write(root, RUN, row("a"))
    ledger = LedgerIndex.open(root)
    assert ledger.owner("a.pdf") == "a"
    assert ledger.owner("b.pdf") is None
    ledger.close()


def test_the_owner_is_looked_up_by_an_index(root):
    """A look-up by key walks no table, after a rebuild as after an update."""
    write(root, RUN, row("a"))
    for _ in range(2):
        ledger = LedgerIndex.open(root)
        plan = ledger._connection.execute(
            "EXPLAIN QUERY PLAN SELECT invoice_id FROM invoices WHERE key = 'a' AND state = 'stored'"
        ).fetchall()
        ledger.close()
        assert "invoices_by_key" in str(plan)
        write(root, RUN, row("b"))


def test_a_snapshot_changes_nothing(root):
    """A snapshot sees every whole row, without a ledger, with an old one, and during a run, and leaves no trace."""
    write(root, RUN, row("a"))
    assert snapshot(root, "a") == {"a"}
    ask(root)
    write(root, RUN, row("b"))
    assert snapshot(root, "a", "b") == {"a", "b"}
    running = LedgerIndex.open(root)
    write(root, RUN, row("c"))
    with (root / "manifests" / f"{RUN}.jsonl").open("ab") as file:
        file.write(b'{"v":1,"run"')
    assert snapshot(root, "a", "b", "c") == {"a", "b", "c"}
    running.close()


def snapshot(root, *ids):
    before = listing(root)
    ledger = LedgerIndex.snapshot(root)
    found = set(ledger.stored(ids))
    ledger.close()
    assert listing(root) == before
    return found


def listing(root):
    # SQLite keeps its readers' marks in the -shm file of a ledger that a run has open.
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*") if not path.match("*-shm")}


def test_a_snapshot_needs_no_archive(tmp_path):
    """Where there is no archive nothing is stored, and none is made."""
    ledger = LedgerIndex.snapshot(tmp_path / "nowhere")
    assert ledger.stored(["a"]) == {}
    ledger.close()
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_cannot_be_written_stops_the_run(root):
    """A directory in the ledger's place is an error with a name, no traceback of SQLite's."""
    (root / ".bulkfetch" / "ledger.sqlite3" / "x").mkdir(parents=True)
    with pytest.raises(FatalError, match="ledger"):
        LedgerIndex.open(root)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), unique=True))
def test_any_text_is_found_again(tmp_path_factory, ids):
    """Every ID that JSON can hold is found under itself, and no other."""
    root = tmp_path_factory.mktemp("archive")
    (root / ".bulkfetch").mkdir()
    (root / "manifests").mkdir()
    write(root, RUN, *(row(name) for name in ids[::2]))
    assert sorted(ask(root, *ids)) == sorted(ids[::2])


def test_a_row_knows_all_its_keys():
    """No key of a row is left out of its line, whatever its value, but `corrects`, which only a correction row has."""
    plain, correction = row("a"), msgspec.structs.replace(row("a"), corrects=0)
    assert set(msgspec.json.decode(encode_rows([plain]))) == {*Row.__struct_fields__} - {"corrects"}
    assert set(msgspec.json.decode(encode_rows([correction]))) == {*Row.__struct_fields__}
    assert [decode_row(encode_rows([each])) for each in (plain, correction)] == [plain, correction]


def test_a_glance_copies_nothing_and_sees_what_is_newer(root):
    """What no ledger has read yet is seen, with a ledger, beside a run that is writing it, and without one; nothing is
    left behind in the archive."""
    write(root, RUN, row("a"))

    def stored(ledger):
        return set(ledger.stored(["a", "b", "c"]))

    assert LedgerIndex.glance(root, stored) == {"a"}
    assert list((root / ".bulkfetch").iterdir()) == []
    writing = LedgerIndex.open(root)
    write(root, RUN, row("b"))
    assert LedgerIndex.glance(root, stored) == {"a", "b"}
    writing.close()
    before = sorted(path.name for path in (root / ".bulkfetch").iterdir())
    write(root, RUN, row("c"))
    assert LedgerIndex.glance(root, stored) == {"a", "b", "c"}
    assert sorted(path.name for path in (root / ".bulkfetch").iterdir()) == before
    (root / ".bulkfetch" / "ledger.sqlite3").write_bytes(b"no database " * 1000)
    assert LedgerIndex.glance(root, stored) == {"a", "b", "c"}


def test_a_glance_that_met_a_writer_is_taken_again(root):
    """A ledger that is written between two pages is not trusted: the question is asked of a copy."""
    write(root, RUN, row("a"))
    ask(root)
    asked = []

    def stored(ledger):
        if not asked:
            write(root, RUN, row("b"))
            ask(root)
        asked.append(set(ledger.stored(["a", "b"])))
        return asked[-1]

    assert LedgerIndex.glance(root, stored) == {"a", "b"}
    assert len(asked) == 2
