"""The scripts and recipes of README and docs, run as they stand there, against archives of real runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from support.program import bulkfetch, environment, ids_of, objects, sandbox, write_ids
from support.rows import NOW

from bulkfetch.errors import Reason
from bulkfetch.manifest import encode_rows
from bulkfetch.models import Outcome, Row

ROOT = Path(__file__).parents[2]


def block(document, language, mark):
    """The one block of code in `document` that holds `mark`."""
    text = (ROOT / document).read_text("utf-8")
    (code,) = [
        code for code in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if mark in code
    ]
    return code


def drafts_and_all(tmp_path, dest):
    """Two runs: of the first some invoices are drafts, which fail, and by the second one of them is an invoice. Returns
    the IDs that are missing to this day."""
    with sandbox(invoices=20, drafts=0.3) as served:
        ids = ids_of(served)
        args = ("--to", dest, "--api-url", served.api_url)
        assert bulkfetch("run", write_ids(tmp_path / "ids.txt", ids), *args).returncode == 3
    stored = {key.removesuffix(".pdf") for key in objects(dest)}
    missing = sorted(set(ids) - stored)
    assert len(missing) > 1
    with sandbox(invoices=20) as served:
        args = ("--to", dest, "--api-url", served.api_url)
        assert bulkfetch("run", write_ids(tmp_path / "ids.txt", [missing[0], *stored]), *args).returncode == 0
    return [*missing[1:], corrected(dest)]


def corrected(dest):
    """Plant the manifest of a run that took back what it had stored; returns the ID."""
    common = {"run": "r", "invoice_id": "zzz", "line": 7, "started_at": NOW, "finished_at": NOW}
    taken_back = Row(outcome=Outcome.STORED, **common)
    correction = Row(outcome=Outcome.FAILED, reason=Reason.UNPROCESSABLE, corrects=0, **common)
    (dest / "manifests" / "29990101T000000Z-000000.jsonl").write_bytes(encode_rows([taken_back, correction]))
    return "zzz"


@pytest.fixture
def nightly(tmp_path):
    """The README's nightly script: its exit code, and the mail that it sent, if any. `mail` is a stand-in."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in (
        ("bulkfetch", f'exec {sys.executable} -m bulkfetch "$@"'),
        ("mail", f'{{ printf "%s\\n" "$*"; cat; }} > {tmp_path}/mail'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    script = block("README.md", "sh", "mail -s")
    for there, here in (("/exports/", f"{tmp_path}/"), ("/archive/", f"{tmp_path}/archive/")):
        assert there in script
        script = script.replace(there, here)

    def run(served, token="sandbox"):
        (tmp_path / "mail").unlink(missing_ok=True)
        file = tmp_path / "nightly"
        file.write_text(script.replace("https://tenant.coreapi.io", served.api_url))
        file.chmod(0o755)
        environ = environment(token, {})
        environ["PATH"] = f"{programs}:{environ['PATH']}"
        done = subprocess.run([file], env=environ, capture_output=True, text=True, timeout=40)
        assert (done.stdout, done.stderr) == ("", "")
        return done.returncode, (tmp_path / "mail").read_text() if (tmp_path / "mail").exists() else None

    return run


def as_nightly_csv(tmp_path, ids):
    lines = ["id;number;year", *(f"{each};RE-{number};2024" for number, each in enumerate(ids))]
    (tmp_path / "invoices.csv").write_text("\n".join(lines))


def test_the_nightly_script_mails_what_is_missing_and_keeps_the_exit_code(nightly, tmp_path):
    """A complete night sends nothing. Else the mail has a line for each invoice that is missing, and the summary, and
    the script ends as the run did: with failures, and where the run stopped early."""
    with sandbox(invoices=30, drafts=0.2) as served:
        as_nightly_csv(tmp_path, [*ids_of(served), "a/b"])
        code, mail = nightly(served)
        drafts = [each for each in ids_of(served) if (found := served.book.find(each)) and found.draft]
        assert code == 3
        assert mail.startswith("-s bulkfetch: exit code 3 ops\n")
        listed = {line.split("\t")[0]: line.split("\t")[1] for line in mail.splitlines() if "\t" in line}
        assert listed == {**dict.fromkeys(drafts, "unprocessable"), "a/b;RE-30;2024": "invalid_id"}
        assert f"finished, but not complete: {len(drafts)} failed; 1 rejected  31 rows" in mail
    with sandbox(invoices=30) as served:
        as_nightly_csv(tmp_path, ids_of(served))
        code, mail = nightly(served, token="wrong")
        assert code == 5
        assert "stopped, not finished: the API refuses the token" in mail
        assert nightly(served) == (0, None)


def test_the_readmes_list_of_failures_goes_by_invoices(tmp_path):
    """What one run failed and a later one stored is no failure any more; what is still missing is one."""
    missing = drafts_and_all(tmp_path, tmp_path / "archive")
    recipe = block("README.md", "sh", "reduce").replace("/archive/invoices", str(tmp_path / "archive"))
    done = subprocess.run(["sh", "-c", recipe], capture_output=True, text=True, timeout=20)
    assert done.stderr == ""
    listed = sorted(line.split("\t")[:2] for line in done.stdout.splitlines())
    assert listed == [[each, "unprocessable"] for each in missing]


def test_the_recipe_for_duckdb(tmp_path):
    """The view has a typed column for each key of a row, all-null ones included; the query tells what is missing."""
    dest = tmp_path / "archive"
    missing = drafts_and_all(tmp_path, dest)
    sql = block("docs/records.md", "sql", "read_json").replace("/archive/invoices", str(dest))
    with duckdb.connect() as database:
        found = database.sql(sql).fetchall()
        types = dict(database.sql("SELECT column_name, column_type FROM (DESCRIBE invoice_rows)").fetchall())
        [(rows,)] = database.sql("SELECT count(*) FROM invoice_rows").fetchall()
    assert sorted((invoice_id, reason) for invoice_id, reason, _ in found) == [
        (each, "unprocessable") for each in missing
    ]
    assert list(types) == list(Row.__struct_fields__)
    assert (types["version_id"], types["size"], types["finished_at"]) == ("VARCHAR", "BIGINT", "TIMESTAMP")
    assert rows == 20 + 20 - len(missing) + 3


def test_the_recipe_for_pandas(tmp_path):
    """The table has a typed column for each key of a row, and an ID of digits keeps its zeros."""
    dest = tmp_path / "archive"
    with sandbox(invoices=20) as served:
        ids = write_ids(tmp_path / "ids.txt", ["0012", *ids_of(served)])
        for _ in range(2):
            assert bulkfetch("run", ids, "--to", dest, "--api-url", served.api_url).returncode == 3
    show = "print(json.dumps([{k: str(t) for k, t in rows.dtypes.items()}, list(rows.invoice_id), len(rows)]))"
    recipe = block("docs/records.md", "python", "pandas").replace("/archive/invoices", str(dest))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", recipe + show], capture_output=True, text=True, timeout=40
    )
    assert done.stderr == ""
    types, ids, rows = json.loads(done.stdout)
    assert list(types) == list(Row.__struct_fields__)
    assert (types["version_id"], types["size"], types["retryable"]) == ("string", "Int64", "boolean")
    assert types["finished_at"].startswith("datetime64")
    assert rows == 42
    assert ids.count("0012") == 2
