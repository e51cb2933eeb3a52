"""The installed command exports archives: CSV that opens safely, JSON lines, and a bag that others accept."""

import csv
import json
import os
import subprocess
import sys

import pytest
from support.program import all_rows, bulkfetch, ids_of, objects, sandbox
from support.runs import accept


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of two runs of a list with columns; the last two invoices are unknown, and one is an accepted gap."""
    base = tmp_path_factory.mktemp("made")
    with sandbox(invoices=8) as served:
        ids = [*ids_of(served), "gone-1", "gone-2"]
        rows = [f"{each};=1+{number};Müller €" for number, each in enumerate(ids)]
        (base / "ids.csv").write_text("\n".join(["id;number;name", *rows]), "utf-8")
        for _ in range(2):
            done = bulkfetch("run", base / "ids.csv", "--to", base / "archive", "--api-url", served.api_url)
            assert done.returncode == 3, done.stderr
    accept(base / "archive", ["gone-2"], "never issued")
    return base / "archive"


def export(archive, file, *flags):
    done = bulkfetch("export", archive, file, *flags)
    assert done.returncode == 0, done.stderr
    return done


def table(file, **how):
    with file.open(newline="", encoding=how.pop("encoding", "utf-8")) as text:
        return list(csv.DictReader(text, **how))


def test_a_csv_has_one_row_an_invoice_and_no_formula(archive, tmp_path):
    """Each invoice once, with the row that counts, the input's columns and the reason of a gap; a cell that would be a
    formula is text."""
    export(archive, tmp_path / "all.csv")
    rows = {row["invoice_id"]: row for row in table(tmp_path / "all.csv")}
    assert len(rows) == 10
    assert [row["outcome"] for row in rows.values()].count("stored") == 8
    assert (rows["gone-2"]["outcome"], rows["gone-2"]["accepted"]) == ("failed", "never issued")
    assert {row["fields.number"][:2] for row in rows.values()} == {"'="}
    assert {row["fields.name"] for row in rows.values()} == {"Müller €"}
    for row in rows.values():
        assert row["outcome"] != "stored" or len(objects(archive)[row["key"]]) == int(row["size"])


def test_a_csv_is_written_as_it_is_wanted(archive, tmp_path):
    """Columns, delimiter and encoding are a matter of flags; what the encoding lacks is an error, and no file."""
    flags = ("--columns", "invoice_id,fields.name", "--delimiter", ";", "--encoding", "windows-1252")
    export(archive, tmp_path / "some.csv", *flags)
    rows = table(tmp_path / "some.csv", delimiter=";", encoding="windows-1252")
    assert list(rows[0]) == ["invoice_id", "fields.name"]
    assert rows[0]["fields.name"] == "Müller €"
    done = bulkfetch("export", archive, tmp_path / "none.csv", "--encoding", "ascii")
    assert (done.returncode, "choose another --encoding" in done.stderr) == (2, True)
    assert bulkfetch("export", archive, tmp_path / "none.csv", "--columns", "nonsense").returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["some.csv"]


def test_json_lines_have_every_row_or_those_of_one_run(archive, tmp_path):
    """All rows of all runs, those of one run, and those since a moment."""
    file = tmp_path / "rows.jsonl"
    export(archive, file, "--all-rows")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == len(all_rows(archive)) == 21
    export(archive, file, "--run", rows[0]["run"])
    assert len(file.read_text().splitlines()) == 10
    export(archive, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["fields"]["number"][:2] for row in rows} == {"=1"}
    export(archive, file, "--since", "2999-01-01")
    assert file.read_text() == ""
    assert bulkfetch("export", archive, file, "--run", "nonsense").returncode == 2


def test_a_bag_is_accepted_by_the_tool_of_the_library_of_congress(archive, tmp_path):
    """bagit.py validates it; objects are links, the manifests go along, and a changed object is found."""
    bag = tmp_path / "bag"
    export(archive, bag)
    validate = [sys.executable, "-W", "ignore", "-m", "bagit", "--validate", bag]
    done = subprocess.run(validate, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    data = sorted((bag / "data").iterdir())
    assert [path.name for path in data] == sorted(objects(archive))
    assert all(os.path.samefile(path, archive / path.name) for path in data)
    assert sorted(os.listdir(bag / "manifests")) == sorted(os.listdir(archive / "manifests"))
    changed = data[0].read_bytes() + b"!"
    data[0].unlink()
    data[0].write_bytes(changed)
    assert subprocess.run(validate, capture_output=True, timeout=50).returncode == 1
    assert bulkfetch("export", archive, bag).returncode == 2
