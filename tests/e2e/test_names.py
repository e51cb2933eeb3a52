"""Names as a person meets them: told by the plan before the first run, by the row and by the summary."""

import json

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

TEMPLATE = "{fields[Kunde]}/{fields[Datum]:%Y-%m}.pdf"


def table(path, lines):
    """A CSV file of ID, customer and date."""
    path.write_text("".join(f"{line}\n" for line in ["id;Kunde;Datum", *lines]), encoding="utf-8")
    return path


def test_names_are_shown_before_the_first_run_and_kept_by_it(tmp_path):
    """The plan shows keys with people's own words and the dates of the column; two invoices that come to one name are
    told by plan, row and summary, and both are stored. The other order the next night changes nothing."""
    dest = tmp_path / "archive"
    with sandbox(invoices=4) as served:
        ids = ids_of(served)
        lines = [
            f"{ids[0]};Müller GmbH;31.12.2024",
            f"{ids[1]};Müller GmbH;01.12.2024",
            f"{ids[2]};A/B;2024-11-02",
            f"{ids[3]};Müller GmbH;01.01.2025",
        ]
        source = table(tmp_path / "rows.csv", lines)
        args = (source, "--to", dest, "--key", TEMPLATE)
        planned = json.loads(bulkfetch("plan", *args, "--json", "--show-keys", 3, token=None).stdout)
        assert (planned["to_fetch"], planned["names_taken"]) == (4, 1)
        first, second, third = planned["keys"]
        assert first == {"line": 2, "invoice_id": ids[0], "key": "Müller GmbH/2024-12.pdf", "note": None}
        assert second["note"] == "Müller GmbH/2024-12.pdf is that of line 2"
        assert second["key"].startswith("Müller GmbH/2024-12~")
        assert third["key"].startswith("A%2fB/2024-11~")
        text = bulkfetch("plan", *args, "--show-keys", 1, token=None, PYTHONIOENCODING="utf-8").stdout
        assert "Müller GmbH/2024-12.pdf\n" in text
        assert "names taken" in text
        assert not dest.exists()
        done = bulkfetch("run", *args, "--api-url", served.api_url)
        assert done.returncode == 0, done.stderr
        assert "a hash was added" in done.stderr
        assert summary(dest).names_taken == 1
        [told] = [row for row in rows(dest) if row.message]
        assert told.message.startswith("name taken: Müller GmbH/2024-12.pdf is ")
        assert len(objects(dest)) == 4
        there = objects(dest)
        table(source, [lines[1], lines[0], *lines[2:]])
        assert bulkfetch("run", *args, "--api-url", served.api_url).returncode == 0
        assert {row.reason for row in rows(dest)} == {"already_stored"}
        assert objects(dest) == there
        again = json.loads(bulkfetch("plan", *args, "--json", "--show-keys", 3, token=None).stdout)
        assert (again["already_stored"], again["names_taken"], again["keys"]) == (4, 0, [])
    assert_sound(dest)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_a_column_that_is_not_there_ends_the_run_at_once(tmp_path, kind):
    """A template that names a column the input has not is a mistake of the command: exit 2, with the nearest name and
    before anybody is asked. An input without columns has none."""
    dest = tmp_path / "archive"
    with sandbox(invoices=2) as served:
        ids = ids_of(served)
        source = tmp_path / f"rows.{kind}"
        if kind == "csv":
            table(source, [f"{invoice_id};x;2024-01-01" for invoice_id in ids])
        elif kind == "jsonl":
            source.write_text("".join(json.dumps({"id": each, "Kunde": "x"}) + "\n" for each in ids))
        else:
            write_ids(source, ids)
        args = (source, "--to", dest, "--key", "{fields[Kunda]}/{id}.pdf")
        for done in (bulkfetch("plan", *args), bulkfetch("run", *args, "--api-url", served.api_url)):
            assert done.returncode == 2, done.stderr
            assert "no column is called 'Kunda'" in done.stderr
            assert ("did you mean 'Kunde'?" in done.stderr) is (kind != "txt")
        assert served.stats.puts.total() == 0
    assert all_rows(dest) == []


def test_a_plan_and_the_run_agree_on_what_is_adopted(tmp_path):
    """Objects without a row are counted as such by the plan, and adopted by the run; what is no whole PDF is fetched,
    and what a changed template would name otherwise stays."""
    dest = tmp_path / "archive"
    dest.mkdir()
    with sandbox(invoices=6) as served:
        ids = ids_of(served)
        source = write_ids(tmp_path / "ids.txt", ids)
        for invoice_id in ids[:2]:
            (dest / f"{invoice_id}.pdf").write_bytes(pdf_of(served, invoice_id))
        (dest / f"{ids[2]}.pdf").write_bytes(b"%PDF-1.7 but no end")
        planned = json.loads(bulkfetch("plan", source, "--to", dest, "--json", token=None).stdout)
        assert (planned["to_fetch"], planned["to_adopt"], planned["already_stored"]) == (4, 2, 0)
        assert "to adopt" in bulkfetch("plan", source, "--to", dest, token=None).stdout
        done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url)
        assert done.returncode == 3, done.stderr
        assert served.stats.puts.keys() == set(ids[2:])
        assert {row.invoice_id for row in rows(dest) if row.reason == "adopted"} == set(ids[:2])
        moved = ("plan", source, "--to", dest, "--key", "{id[:2]}/{id}.pdf", "--json")
        planned = json.loads(bulkfetch(*moved, token=None).stdout)
        assert (planned["already_stored"], planned["moved"], planned["to_fetch"]) == (5, 5, 1)
