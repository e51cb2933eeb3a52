"""Which source a name opens, and what is refused before anything is read."""

import os
import subprocess
import sys

import anyio
import pytest

from bulkfetch.errors import UsageError
from bulkfetch.sources import open_source

READ_STDIN = """
import anyio
from bulkfetch.sources import open_source

async def main(source):
    async for batch in source.batches():
        for row in batch:
            print(row.line, row.invoice_id, flush=True)

anyio.run(main, open_source("-"))
"""


def ids_of(source):
    """The invoice IDs that `source` hands out."""

    async def read():
        return [row.invoice_id async for batch in source.batches() for row in batch]

    return anyio.run(read)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("ids.txt", {}, "a\nb\n"),
        ("ids.txt", {}, "a\nb"),
        ("ids.ndjson", {}, '"a"\n"b"\n'),
        ("ids.tsv", {}, "n\tid\n1\ta\n2\tb\n"),
        ("IDS.TXT", {}, "a\nb\n"),
        ("ids.csv", {}, "id\na\nb\n"),
        ("ids.txt", {"column": "no"}, "no,x\na,1\nb,2\n"),
        ("ids.jsonl", {"column": "no"}, '{"no":"a"}\n{"no":"b"}\n'),
        ("ids.dat", {"format": "txt"}, "a\nb\n"),
        ("ids", {"format": "jsonl"}, '"a"\n"b"\n'),
    ],
)
def test_format_comes_from_the_suffix_or_the_flag(tmp_path, name, options, text):
    """The suffix tells the format, in any case; the flag overrides it, and a column makes a .txt a table."""
    path = tmp_path / name
    path.write_text(text)
    source = open_source(str(path), **options)
    assert source.name == str(path)
    assert ids_of(source) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("missing.txt", {}, "No such file"),
        ("folder", {"format": "txt"}, "a directory"),
        ("ids.dat", {}, "add --format"),
        ("ids.gz", {}, "add --format"),
        ("ids.txt", {"format": "xml"}, "use one of auto, txt, csv, jsonl"),
        ("ids.txt", {"format": "txt", "column": "id"}, "no columns"),
        ("a\0b.txt", {}, "not a file name"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, options, problem):
    """A name that opens nothing is refused before anything is read, with the fix."""
    (tmp_path / "folder").mkdir()
    for file in ("ids.dat", "ids.gz", "ids.txt"):
        (tmp_path / file).touch()
    with pytest.raises(UsageError, match=problem):
        open_source(str(tmp_path / name), **options)


@pytest.mark.parametrize("spec", ["nats://user:hunter2@host:4222/ids", "sqs://hunter2@queue", "https://x/?t=hunter2"])
def test_unknown_sources_are_named_without_their_secrets(spec):
    """A source by URL is refused by its scheme; the rest of the URL may hold credentials and is not shown."""
    with pytest.raises(UsageError, match="is not known") as caught:
        open_source(spec)
    assert spec.split(":")[0] in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_name_is_safe_to_show(tmp_path):
    """A file name that would steer the terminal is shown escaped."""
    path = tmp_path / "ids\x1b[31m.txt"
    path.touch()
    assert open_source(str(path)).name.isprintable()


def test_stdin_of_another_process():
    """A process that reads standard input answers each line as it is written, and ends with it."""
    command = [sys.executable, "-c", READ_STDIN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line, text in enumerate(("a", "b"), 1):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{line} {text}\n"
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait() == 0


def test_a_terminal_is_refused():
    """Nobody types invoice IDs: a terminal as standard input is refused, with the hint to pipe."""
    main, terminal = os.openpty()
    command = [sys.executable, "-c", "from bulkfetch.sources import open_source; open_source('-')"]
    try:
        result = subprocess.run(command, stdin=terminal, capture_output=True, text=True, check=False)
    finally:
        os.close(main)
        os.close(terminal)
    assert "is a terminal; pipe" in result.stderr


def test_a_closed_stdin_is_refused():
    """Without any standard input there is nothing to read, which is said."""
    script = "import os; os.close(0); from bulkfetch.sources import open_source; open_source('-')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "standard input is closed" in result.stderr
