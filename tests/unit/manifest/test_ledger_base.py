"""The ledger of processes beside each other: one base that nobody writes, and what is newer in each one's overlay."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.rows import row

from bulkfetch.manifest import LedgerIndex, encode_rows
from bulkfetch.models import Outcome

RUN, LATER = "20250101T000000Z-000001", "20250102T000000Z-000002"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive in which a hundred invoices are stored."""
    (tmp_path / ".bulkfetch").mkdir()
    (tmp_path / "manifests").mkdir()
    write(tmp_path, RUN, *(f"id-{number:03}" for number in range(100)))
    return tmp_path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def write(root: Path, run: str, *ids: str) -> None:
    with (root / "manifests" / f"{run}.jsonl").open("ab") as file:
        file.write(encode_rows([row(invoice_id) for invoice_id in ids]))


def beside(stack: ExitStack, root: Path) -> LedgerIndex:
    return stack.enter_context(closing(LedgerIndex.beside_others(root)))


def base(root: Path) -> Path:
    return root / ".bulkfetch" / "ledger.sqlite3"


def test_the_base_is_renewed_when_a_tenth_is_newer_and_never_written(root, stack):
    """Up to a tenth the overlay knows what is newer. Then whoever starts puts a new file in the place of the old one,
    which is as it was for those who have it open."""
    first = beside(stack, root)
    node, data = base(root).stat().st_ino, base(root).read_bytes()
    write(root, LATER, *(f"new-{number}" for number in range(9)))
    second = beside(stack, root)
    assert len(second.stored(["id-007", "new-8"])) == 2
    assert (base(root).stat().st_ino, base(root).read_bytes()) == (node, data)
    write(root, LATER, "new-9", "new-10")
    third = beside(stack, root)
    assert base(root).stat().st_ino != node
    for ledger in (first, second, third):
        ledger.refresh()
        assert len(ledger.stored(["id-007", "new-8", "new-10"])) == 3
    assert sorted(path.name for path in base(root).parent.iterdir()) == ["ledger.lock", "ledger.sqlite3"]


def test_one_more_takes_no_disk_and_no_time_for_what_is_known(root, stack):
    """Its overlay holds only what is newer, wherever SQLite keeps it."""
    beside(stack, root)
    write(root, LATER, "new")
    more = beside(stack, root)
    assert more._connection.execute("SELECT count(*) FROM main.invoices").fetchone() == (1,)
    assert more._connection.execute("SELECT count(*) FROM base.invoices").fetchone() == (100,)


def test_what_is_newer_hides_the_base(root, stack):
    """An invoice whose state has changed is found by the new one alone: its key, its object, its failure."""
    failed = row("failed", Outcome.FAILED)
    with (root / "manifests" / f"{RUN}.jsonl").open("ab") as file:
        file.write(encode_rows([failed]))
    ledger = beside(stack, root)
    lines = encode_rows([row("id-000", key="other.pdf"), row("failed")])
    (root / "manifests" / f"{LATER}.jsonl").write_bytes(lines)
    ledger.index(LATER, [row("id-000", key="other.pdf"), row("failed")], lines, 0)
    assert ledger.stored(["id-000"])["id-000"].key == "other.pdf"
    assert [ledger.owner(key) for key in ("id-000.pdf", "other.pdf", "id-001.pdf")] == [None, "id-000", "id-001"]
    assert (list(ledger.unresolved()), ledger.count_unresolved()) == ([], [])


def test_what_a_run_alone_left_is_the_base(root, stack):
    """Its ledger is taken as it is, with what a run that was killed had not moved into the file yet."""
    with closing(LedgerIndex.open(root)) as killed:
        write(root, LATER, "new")
        killed.refresh()
        wal = Path(f"{base(root)}-wal")
        assert wal.stat().st_size
        left = {path: path.read_bytes() for path in (base(root), wal)}
    for path, data in left.items():
        path.write_bytes(data)
    ledger = beside(stack, root)
    assert not wal.exists()
    assert len(ledger.stored(["id-000", "new"])) == 2
    assert ledger._connection.execute("SELECT count(*) FROM base.invoices").fetchone() == (101,)


def test_a_run_alone_goes_on_from_the_base(root, stack):
    """It writes into the same file again, and reads nothing that the base knows."""
    beside(stack, root).close()
    path = root / "manifests" / f"{RUN}.jsonl"
    path.write_bytes(b"x" * (path.stat().st_size - 1) + b"\n")
    write(root, RUN, "new")
    with closing(LedgerIndex.open(root)) as alone:
        assert len(alone.stored(["id-000", "id-099", "new"])) == 3


@pytest.mark.parametrize("damage", ["garbage", "another layout", "half a write"])
def test_a_damaged_base_is_made_anew(root, stack, damage):
    """Whatever is wrong with the file, the manifests bring it back; others keep the file that they have open."""
    living = beside(stack, root)
    if damage == "another layout":
        copy = base(root).with_name("copy")
        copy.write_bytes(base(root).read_bytes())
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA user_version = 99")
        copy.replace(base(root))
    else:
        base(root).unlink()
        base(root).write_bytes(b"no database " * 1000)
        if damage == "half a write":
            base(root).with_name("ledger.sqlite3.part").write_bytes(b"no database either")
    for ledger in (beside(stack, root), living):
        assert len(ledger.stored(["id-000", "id-099"])) == 2


def test_damage_met_while_running_is_mended(root, stack):
    """A page of the base that turns out to be damaged is answered from the manifests."""
    write(root, RUN, *(f"more-{number:06}" for number in range(5000)))
    ledger = beside(stack, root)
    data = base(root).read_bytes()
    with base(root).open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (len(data) - 12288))
    assert len(ledger.stored([f"more-{number:06}" for number in range(5000)])) == 5000


def test_a_manifest_that_is_gone_starts_the_base_anew(root, stack):
    """Rows that no manifest holds any more are not claimed to be stored, in a base or above it."""
    write(root, LATER, "new")
    ledger = beside(stack, root)
    (root / "manifests" / f"{LATER}.jsonl").unlink()
    ledger.refresh()
    for each in (ledger, beside(stack, root)):
        assert set(each.stored(["id-000", "new"])) == {"id-000"}


def test_nothing_stays_open(root):
    """A closed ledger leaves no descriptor behind, its base's included."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        LedgerIndex.beside_others(root).close()
    assert len(os.listdir("/proc/self/fd")) == before
