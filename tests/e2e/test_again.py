"""The same command again converges: what is stored stays and is not fetched, what failed or is gone is."""

import hashlib
import json
import shutil
from collections import Counter

import pytest
from support.program import (
    all_rows,
    assert_sound,
    bulkfetch,
    ids_of,
    objects,
    pdf_of,
    rows,
    sandbox,
    summary,
    write_ids,
)
from support.runs import accept


@pytest.fixture
def archived(tmp_path):
    """A sandbox, an archive of all but its last ten invoices, and the command that made it."""
    with sandbox(invoices=50) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)[:40]), tmp_path / "archive"

        def run(*args):
            served.stats.puts.clear()
            served.stats.gets.clear()
            return bulkfetch("run", source, "--to", dest, "--api-url", served.api_url, *args)

        assert run().returncode == 0
        yield served, dest, run


def test_nothing_stored_is_requested_again(archived):
    """The second run makes no request: each row is `already_stored`, and the row of the first run says what and where.
    Without the ledger too."""
    served, dest, run = archived
    first = {row.invoice_id for row in rows(dest)}
    for lost in (False, True):
        if lost:
            for file in (dest / ".bulkfetch").glob("ledger*"):
                file.unlink()
        assert run().returncode == 0
        assert served.stats.puts.total() == served.stats.gets.total() == 0
        assert {(row.outcome, row.reason) for row in rows(dest)} == {("skipped", "already_stored")}
        assert {row.invoice_id for row in rows(dest)} == first
        assert summary(dest).counts.skipped == 40
    assert (dest / ".bulkfetch" / "ledger.sqlite3").exists()


def test_an_accepted_gap_does_not_keep_a_run_from_being_complete(archived):
    """From then on it is `skipped/accepted` and asked for no more, and plan says so, too; taken back, it is asked for
    again."""
    served, dest, run = archived
    write_ids(dest.parent / "ids.txt", [*ids_of(served)[:40], "RE-0"])
    assert run().returncode == 3
    accept(dest, ["RE-0"], "written off in 2019")
    for _ in range(2):
        planned = json.loads(bulkfetch("plan", dest.parent / "ids.txt", "--to", dest, "--json").stdout)
        assert (planned["to_fetch"], planned["accepted"], planned["already_stored"], planned["read"]) == (0, 1, 40, 41)
        assert run().returncode == 0
        assert served.stats.puts.total() == 0
        assert [(row.outcome, row.reason) for row in rows(dest) if row.invoice_id == "RE-0"] == [
            ("skipped", "accepted")
        ]
    accept(dest, ["RE-0"], None)
    assert run().returncode == 3
    assert served.stats.puts.total() == 1


def test_what_is_gone_cut_or_new_is_fetched_and_nothing_else(archived):
    """A deleted object comes back, a new ID is added; one that was cut is not replaced but reported."""
    served, dest, run = archived
    ids = ids_of(served)
    (dest / f"{ids[3]}.pdf").unlink()
    write_ids(dest.parent / "ids.txt", ids[:41])
    assert run().returncode == 0
    assert served.stats.gets == Counter([ids[3], ids[40]])
    assert (dest / f"{ids[3]}.pdf").read_bytes() == pdf_of(served, ids[3])
    cut = dest / f"{ids[7]}.pdf"
    cut.write_bytes(cut.read_bytes()[:100])
    assert run().returncode == 3
    assert served.stats.gets == Counter([ids[7]])
    (failed,) = [row for row in rows(dest) if row.outcome == "failed"]
    assert (failed.invoice_id, failed.reason) == (ids[7], "conflict")
    assert cut.stat().st_size == 100


def test_what_failed_is_tried_again(tmp_path):
    """A draft that has become an invoice is fetched by the next run, and only it is asked for."""
    dest = tmp_path / "archive"
    with sandbox(invoices=40, drafts=0.2) as served:
        ids = ids_of(served)
        drafts = [invoice_id for invoice_id in ids if (document := served.book.find(invoice_id)) and document.draft]
        source = write_ids(tmp_path / "ids.txt", ids)
        assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 3
        assert len(objects(dest)) == 40 - len(drafts) < 40
    with sandbox(invoices=40) as served:
        assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
        assert served.stats.puts == Counter(drafts)
    assert len(objects(dest)) == 40
    assert_sound(dest)


def foreign(dest, invoice_id, data):
    dest.mkdir(exist_ok=True)
    (dest / f"{invoice_id}.pdf").write_bytes(data)


def test_a_foreign_file_is_never_replaced(tmp_path):
    """Other bytes under the final name are a conflict: they stay, the new ones are kept aside, exit code 3."""
    dest = tmp_path / "archive"
    with sandbox(invoices=10) as served:
        ids = ids_of(served)
        foreign(dest, ids[2], b"somebody's notes")
        source = write_ids(tmp_path / "ids.txt", ids)
        done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url)
        pdf = pdf_of(served, ids[2])
    assert done.returncode == 3, done.stderr
    (failed,) = [row for row in rows(dest) if row.outcome == "failed"]
    assert (failed.invoice_id, failed.reason, failed.retryable) == (ids[2], "conflict", False)
    assert (dest / f"{ids[2]}.pdf").read_bytes() == b"somebody's notes"
    (kept,) = (dest / ".bulkfetch" / "quarantine").iterdir()
    assert kept.read_bytes() == pdf
    assert (failed.size, failed.sha256) == (len(pdf), kept.name)
    assert summary(dest).counts.stored == 9


@pytest.mark.parametrize("before", ["first run", "after a complete run"])
def test_the_same_bytes_are_adopted(tmp_path, before):
    """A file that has the right bytes already is recorded as stored, `adopted`, and left as it is."""
    dest = tmp_path / "archive"
    with sandbox(invoices=10) as served:
        ids = ids_of(served)
        args = ("--to", dest, "--api-url", served.api_url)
        if before != "first run":
            assert bulkfetch("run", write_ids(tmp_path / "ids.txt", ids[5:]), *args).returncode == 0
        foreign(dest, ids[2], pdf_of(served, ids[2]))
        written = (dest / f"{ids[2]}.pdf").stat()
        assert bulkfetch("run", write_ids(tmp_path / "ids.txt", ids), *args).returncode == 0
        pdf = pdf_of(served, ids[2])
        # Only a run that has reason to expect objects without rows looks before it fetches.
        assert served.stats.gets[ids[2]] == (0 if before == "first run" else 1)
    adopted = [row for row in rows(dest) if row.reason == "adopted"]
    assert [(row.invoice_id, row.outcome, row.sha256) for row in adopted] == [
        (ids[2], "stored", hashlib.sha256(pdf).hexdigest())
    ]
    assert (dest / f"{ids[2]}.pdf").stat().st_ino == written.st_ino
    assert_sound(dest)


def test_an_archive_can_move(archived, tmp_path):
    """Keys are relative: after the directory was renamed, nothing is fetched again."""
    served, dest, _ = archived
    moved = tmp_path / "elsewhere"
    shutil.move(dest, moved)
    served.stats.puts.clear()
    source = tmp_path / "ids.txt"
    assert bulkfetch("run", source, "--to", moved, "--api-url", served.api_url).returncode == 0
    assert served.stats.puts.total() == 0
    assert len(all_rows(moved)) == 80
