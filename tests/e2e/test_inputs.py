"""Inputs that are not what they should be, met by the installed command."""

import subprocess

import pytest
from support.program import bulkfetch, command, environment, ids_of, rows, sandbox, write_ids


@pytest.fixture(scope="module")
def served():
    """A sandbox that never fails."""
    with sandbox(invoices=5) as running:
        yield running


@pytest.mark.parametrize("flag", [("--until-empty",), ("--idle", "5")])
def test_a_flag_for_queues_is_refused_on_a_file(tmp_path, flag):
    """Exit code 2: whoever gave it expects something of it."""
    source = write_ids(tmp_path / "ids.txt", ["a"])
    done = bulkfetch("run", source, "--to", tmp_path / "archive", *flag)
    assert done.returncode == 2
    assert f"{flag[0]} has no effect on a file" in done.stderr


@pytest.mark.parametrize("flag", [("--allow-empty",), ("--column", "id"), ("--encoding", "utf-16")])
def test_a_flag_for_files_is_refused_on_a_queue(tmp_path, flag):
    """Exit code 2, before the queue is looked for."""
    done = bulkfetch("run", "nats://127.0.0.1:9/ids", "--to", tmp_path / "archive", *flag)
    assert done.returncode == 2
    assert f"{flag[0]} has no effect on a queue" in done.stderr


def test_a_closed_standard_input_is_refused(tmp_path):
    """Exit code 2: closed is not empty."""
    words = command("run", "-", "--to", tmp_path / "archive")
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *words],
        env=environment("sandbox", {}), capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "standard input is closed" in done.stderr


def test_plain_text_called_gzip_is_refused(tmp_path):
    """Exit code 2, with what it is."""
    (tmp_path / "ids.txt.gz").write_text("a\n")
    done = bulkfetch("run", tmp_path / "ids.txt.gz", "--to", tmp_path / "archive", "--api-url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "rename it if it is a plain list" in done.stderr


def test_an_encoding_that_is_told_is_read(served, tmp_path):
    """A list from Windows is read with its names as they were; without the flag it is refused, and the flag named."""
    source, dest = tmp_path / "ids.csv", tmp_path / "archive"
    text = "id;name\n" + "".join(f"{invoice_id};M\u00fcller\n" for invoice_id in ids_of(served))
    source.write_bytes(text.encode("cp1252"))
    args = ("run", source, "--to", dest, "--api-url", served.api_url)
    refused = bulkfetch(*args)
    assert refused.returncode == 2
    assert "line 2, column name" in refused.stderr
    assert "--encoding windows-1252" in refused.stderr
    done = bulkfetch(*args, "--encoding", "windows-1252")
    assert done.returncode == 0, done.stderr
    assert {row.fields["name"] for row in rows(dest)} == {"M\u00fcller"}


def test_plan_says_what_is_no_row(tmp_path):
    """Lines that are no rows are counted apart."""
    (tmp_path / "ids.csv").write_text("id;n\na;1\n;;\n\nid;n\n")
    done = bulkfetch("plan", tmp_path / "ids.csv", "--to", tmp_path / "archive")
    assert done.returncode == 0, done.stderr
    assert "no rows but lines: blank 1, ghost 1, header 1" in done.stdout
