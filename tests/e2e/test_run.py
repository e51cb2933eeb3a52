"""`bulkfetch run` from an input to an archive: files, rows, hashes, counts."""

import csv
import gzip
import hashlib
import io
import json
from collections import Counter

import pytest
from support.program import bulkfetch, ids_of, objects, pdf_of, rows, sandbox, summary, write_ids

from bulkfetch.manifest import verify_chain
from bulkfetch.models import Outcome


@pytest.fixture(scope="module")
def served():
    """A sandbox that never fails."""
    with sandbox(invoices=60) as running:
        yield running


def as_csv(ids):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["number", "invoice_id", "year"])
    writer.writerows([f"RE-{number}", invoice_id, 2020 + number % 3] for number, invoice_id in enumerate(ids))
    return text.getvalue().encode()


def as_jsonl(ids):
    return "".join(json.dumps({"id": invoice_id}) + "\n" for invoice_id in ids).encode()


def as_text(ids):
    return "".join(f"{invoice_id}\n" for invoice_id in ids).encode()


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("ids.txt", as_text),
        ("ids.csv", as_csv),
        ("ids.jsonl", as_jsonl),
        ("ids.txt.gz", lambda ids: gzip.compress(as_text(ids))),
        ("-", as_text),
    ],
)
def test_every_invoice_is_archived_as_served(served, tmp_path, name, encode):
    """From each form of input: one file for each ID, with the sandbox's bytes, a row and counts that say so."""
    ids, data, dest = ids_of(served), encode(ids_of(served)), tmp_path / "archive"
    source = name if name == "-" else tmp_path / name
    if name != "-":
        source.write_bytes(data)
    done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url, stdin=data if name == "-" else b"")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert objects(dest) == {f"{invoice_id}.pdf": pdf_of(served, invoice_id) for invoice_id in ids}
    written = rows(dest)
    assert Counter(row.invoice_id for row in written) == Counter(ids)
    for row in written:
        pdf = pdf_of(served, row.invoice_id)
        assert (row.outcome, row.reason, row.key) == (Outcome.STORED, None, f"{row.invoice_id}.pdf")
        assert (row.size, row.sha256, row.content_type) == (
            len(pdf),
            hashlib.sha256(pdf).hexdigest(),
            "application/pdf",
        )
        assert (row.attempts, row.links) == (1, 1)
    told = summary(dest)
    assert (told.exit_code, told.complete, told.counts.stored) == (0, True, len(ids))
    assert told.bytes_stored == sum(map(len, objects(dest).values()))
    assert (told.input_sha256, told.input_bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def test_columns_arrive_in_fields_and_make_the_key(served, tmp_path):
    """A CSV's other columns are in each row's `fields`, and a template of them is the object's key."""
    ids, dest, source = ids_of(served), tmp_path / "archive", tmp_path / "ids.csv"
    source.write_bytes(as_csv(ids))
    template = "{fields[year]}/{fields[number]}.pdf"
    args = ("--to", dest, "--api-url", served.api_url, "--key", template, "--column", "invoice_id")
    assert bulkfetch("run", source, *args).returncode == 0
    expected = {invoice_id: {"number": f"RE-{n}", "year": str(2020 + n % 3)} for n, invoice_id in enumerate(ids)}
    assert {row.invoice_id: row.fields for row in rows(dest)} == expected
    assert all(row.key and row.key.split("/")[0] == row.fields["year"] for row in rows(dest))
    assert objects(dest) == {row.key: pdf_of(served, row.invoice_id) for row in rows(dest)}


def test_names_and_dates_of_the_input_make_the_key(served, tmp_path):
    """Files keep the names of the input, in folders by date; a row whose date cannot be read is rejected, by `plan` as
    by `run`, with the fix."""
    ids, dest, source = ids_of(served)[:4], tmp_path / "archive", tmp_path / "ids.csv"
    numbers = ["RE-1001", "re-1001", "Nr. 7 (Süd)", "A/8"]
    dates = ["31.12.2024", "01/02/2024", "24.12.2024", "1.1.25"]
    lines = ["id;Nummer;Datum", *map(";".join, zip(ids, numbers, dates, strict=True))]
    source.write_text("\n".join(lines), encoding="utf-8")
    args = (source, "--to", dest, "--key", "{fields[Datum]:%Y/%m}/Müller & Söhne/{fields[Nummer]}.pdf")
    planned = json.loads(bulkfetch("plan", *args, "--json").stdout)
    assert (planned["to_fetch"], [line for line, _ in planned["problems"]]) == (2, [3, 5])
    assert bulkfetch("run", *args, "--api-url", served.api_url).returncode == 3
    rejected = {row.line: row.message for row in rows(dest) if row.outcome == Outcome.REJECTED}
    assert all("[source] date_format" in rejected[line] for line in (3, 5))
    assert set(objects(dest)) == {"2024/12/Müller & Söhne/RE-1001.pdf", "2024/12/Müller & Söhne/Nr. 7 (Süd).pdf"}

    us = {"BULKFETCH_SOURCE_DATE_FORMAT": "%m/%d/%Y"}
    source.write_text("\n".join([lines[0], lines[2]]), encoding="utf-8")
    assert json.loads(bulkfetch("plan", *args, "--json", **us).stdout)["to_fetch"] == 1
    assert bulkfetch("run", *args, "--api-url", served.api_url, **us).returncode == 0
    assert "2024/01/Müller & Söhne/re-1001.pdf" in objects(dest)


def test_every_input_row_has_exactly_one_manifest_row(served, tmp_path):
    """Malformed and repeated rows are accounted for by line like all others, and each run seals the one before."""
    ids, dest, source = ids_of(served)[:10], tmp_path / "archive", tmp_path / "ids.txt"
    lines = [*ids, "../../etc/passwd", ids[0], "", "# a comment", "two words", ids[3], ids[0], "caf\u00e9\u202e"]
    source.write_text("\n".join(lines))
    for run in range(2):
        done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url)
        written = sorted(rows(dest), key=lambda row: row.line or 0)
        inputs = [line for line, text in enumerate(lines, 1) if text and not text.startswith("#")]
        assert [row.line for row in written] == inputs
        found = Counter((row.outcome, row.reason) for row in written)
        rejected = sum(count for (outcome, _), count in found.items() if outcome == "rejected")
        assert found["skipped", "duplicate"] == 3
        assert found["stored", None] == (0 if run else 10)
        assert found["skipped", "already_stored"] == (10 if run else 0)
        assert done.returncode == (3 if rejected else 0)
        assert found.total() == 13 + rejected
        told = summary(dest)
        assert (told.counts.read, told.counts.rejected) == (len(written), rejected)
        assert told.reasons["duplicate"] == 3
        assert told.not_rows == {"blank": 1, "comment": 1}
        assert "\u202e" not in done.stderr
    assert rejected >= 2
    assert told.previous is not None
    assert verify_chain(dest) == []
    assert not (tmp_path / "etc").exists()


def test_the_archive_is_chained_and_a_changed_row_is_found(served, tmp_path):
    """The summary seals the manifest: one changed byte in it is found."""
    source = write_ids(tmp_path / "ids.txt", ids_of(served)[:3])
    dest = tmp_path / "archive"
    assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
    assert verify_chain(dest) == []
    (manifest,) = (dest / "manifests").glob("*.jsonl")
    manifest.write_bytes(manifest.read_bytes().replace(b'"stored"', b'"failed"', 1))
    assert [problem.file for problem in verify_chain(dest)] == [f"manifests/{manifest.name}"]
