"""What a `Source` that reads bytes promises on top: each format, packed or not, and pipes."""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from hypothesis import example, given
from hypothesis import strategies as st

from bulkfetch.errors import FatalError
from bulkfetch.keys import check_invoice_id
from bulkfetch.models import Delivery, Malformed, Outcome, Row
from bulkfetch.sources import open_source

ACCOUNT = Row(run="", invoice_id="", outcome=Outcome.STORED, started_at="", finished_at="")
MOST_ROWS = 64 * 1024
FEW_BLOCKS = 4 * 64 * 1024


@dataclass(frozen=True)
class Form:
    """One way to write invoice IDs down."""

    format: str
    head: bytes
    line: Callable[[str], bytes]
    broken: bytes

    @property
    def first_line(self) -> int:
        return 1 + self.head.count(b"\n")


FORMS = {
    "txt": Form("txt", b"", lambda text: f"{text}\n".encode(), b"not an id\n"),
    "csv": Form("csv", b"number,id\n", lambda text: f"n-{text},{text}\n".encode(), b"one,two,three\n"),
    "jsonl": Form("jsonl", b"", lambda text: json.dumps({"id": text, "n": 1}).encode() + b"\n", b'{"id": \n'),
}


@dataclass(frozen=True)
class Input:
    """One implementation under test: a form, and the way its bytes come."""

    form: Form
    way: str
    packed: bool

    def write(self, lines: list[bytes]) -> bytes:
        data = self.form.head + b"".join(lines)
        return gzip.compress(data, 1) if self.packed else data

    @contextlib.contextmanager
    def given(self, data: bytes, folder: Path) -> Iterator[str]:
        """A source's name under which `data` comes."""
        path = folder / f"ids.{self.form.format}{'.gz' if self.packed else ''}"
        if self.way == "file":
            path.write_bytes(data)
            yield str(path)
        elif self.way == "fifo":
            os.mkfifo(path)
            with written(partial(path.open, "wb", buffering=0), data):
                yield str(path)
        else:
            with piped_stdin() as end, written(lambda: end, data):
                yield "-"

    async def open(self, name: str):
        return await to_thread.run_sync(partial(open_source, name, format=self.form.format))


INPUTS = [Input(form, "file", packed) for form in FORMS.values() for packed in (False, True)] + [
    Input(FORMS["txt"], "stdin", packed=False),
    Input(FORMS["jsonl"], "stdin", packed=True),
    Input(FORMS["csv"], "fifo", packed=False),
]


@contextlib.contextmanager
def piped_stdin() -> Iterator[io.FileIO]:
    """Standard input is a pipe, of which this is the writing end."""
    read, write = os.pipe()
    kept = os.dup(0)
    os.dup2(read, 0)
    os.close(read)
    try:
        with io.FileIO(write, "wb") as end:
            yield end
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@contextlib.contextmanager
def written(opener: Callable[[], io.FileIO], data: bytes) -> Iterator[None]:
    """Another thread writes `data`; whoever reads it reads it to its end."""

    def write() -> None:
        with opener() as end:
            rest = memoryview(data)
            while rest:
                rest = rest[end.write(rest) :]

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    thread.join(timeout=10)


async def collect(source):
    """All batches of `source`, and what they hold together."""
    batches = [batch async for batch in source.batches()]
    return batches, [row for batch in batches for row in batch]


@pytest.fixture(params=INPUTS, ids=lambda kind: f"{kind.way}-{kind.form.format}{'-gz' if kind.packed else ''}")
def kind(request) -> Input:
    return request.param


@pytest.mark.anyio
async def test_each_row_once_in_order_with_its_line(kind, tmp_path):
    """Every row is handed out exactly once, in the input's order, under its line number, in bounded batches."""
    ids = [f"id-{number}" for number in range(30_000)]
    with kind.given(kind.write([kind.form.line(text) for text in ids]), tmp_path) as name:
        batches, rows = await collect(await kind.open(name))
    assert [row.invoice_id for row in rows] == ids
    assert [row.line for row in rows] == list(range(kind.form.first_line, kind.form.first_line + len(ids)))
    assert all(0 < len(batch) <= MOST_ROWS for batch in batches)
    assert len(batches) > 1


@pytest.mark.anyio
async def test_digest_is_of_the_bytes_read(kind, tmp_path):
    """The digest is the input's own, as anyone can compute it, and is given only at the end."""
    data = kind.write([kind.form.line(f"id-{number}") for number in range(30_000)])
    with kind.given(data, tmp_path) as name:
        source = await kind.open(name)
        assert source.digest() is None
        async with contextlib.aclosing(source.batches()) as batches:
            await anext(batches)
            assert source.digest() is None
            async for _ in batches:
                pass
    assert source.digest() == (hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.anyio
async def test_malformed_rows_do_not_stop_it(kind, tmp_path):
    """A row that cannot be used is handed out as such, in its place, and the rows after it follow."""
    lines = [kind.form.line("a"), kind.form.broken, kind.form.line("b"), kind.form.broken]
    with kind.given(kind.write(lines), tmp_path) as name:
        _, rows = await collect(await kind.open(name))
    assert [type(row) for row in rows] == [Delivery, Malformed, Delivery, Malformed]
    assert [row.line - kind.form.first_line for row in rows] == [0, 1, 2, 3]
    assert all(row.raw and row.message for row in rows if isinstance(row, Malformed))


@pytest.mark.anyio
async def test_no_rows_no_batches(kind, tmp_path):
    """An input without rows ends at once, and is still accounted for."""
    data = kind.write([])
    with kind.given(data, tmp_path) as name:
        source = await kind.open(name)
        assert await collect(source) == ([], [])
    assert source.digest() == (hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.anyio
async def test_ack_nack_and_release_are_accepted(kind, tmp_path):
    """Rows may be acknowledged or handed back, usable or not."""
    with kind.given(kind.write([kind.form.line("a"), kind.form.broken]), tmp_path) as name:
        source = await kind.open(name)
        async for batch in source.batches():
            for row in batch:
                await source.ack(row, ACCOUNT)
                await source.release(row)
                await source.nack(row)


@pytest.mark.anyio
async def test_estimate_is_exact_at_the_end(kind, tmp_path):
    """The estimate is unknown before the first rows, near in between, and right in the end."""
    count = 30_000
    with kind.given(kind.write([kind.form.line(f"id-{number + count}") for number in range(count)]), tmp_path) as name:
        source = await kind.open(name)
        assert source.estimate() is None
        between = [source.estimate() async for _ in source.batches()]
    if kind.way == "file":
        assert all(abs(guess - count) < count / 3 for guess in between)
    else:
        assert set(between) == {None}
    assert source.estimate() == count


@pytest.mark.anyio
async def test_a_tiny_list_has_an_estimate(tmp_path):
    """A list of a few bytes, without a line end, is estimated as any other one."""
    path = tmp_path / "ids.txt"
    path.write_bytes(b"a")
    source = await to_thread.run_sync(open_source, str(path))
    assert [source.estimate() async for _ in source.batches()] == [1]


def cut(path: Path, data: bytes) -> None:
    os.truncate(path, len(data) // 3 + 5)


def emptied(path: Path, data: bytes) -> None:
    os.truncate(path, 0)


def rewritten(path: Path, data: bytes) -> None:
    path.write_bytes(data[::-1] * 2)


def appended(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def touched(path: Path, data: bytes) -> None:
    os.utime(path)


CHANGES = {change: change in (appended, touched) for change in (cut, emptied, rewritten, appended, touched)}


@pytest.mark.anyio
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("packed", [False, True])
async def test_a_file_that_changes_while_it_is_read_is_no_shorter_list(change, packed, tmp_path):
    """What was read has to be in the file still, or reading fails; no ID is made of what is left of a line."""
    kind = Input(FORMS["txt"], "file", packed)
    noise = hashlib.shake_128(b"").hexdigest(1_000_000)
    ids = [noise[at : at + 100] for at in range(0, len(noise), 100)]
    data = kind.write([kind.form.line(text) for text in ids])
    path = tmp_path / f"ids.txt{'.gz' if packed else ''}"
    path.write_bytes(data)
    source, found = await kind.open(str(path)), []
    async with contextlib.aclosing(source.batches()) as batches:
        found += await anext(batches)
        await to_thread.run_sync(change, path, data)
        with contextlib.nullcontext() if CHANGES[change] else pytest.raises(FatalError, match="changed while it was"):
            async for batch in batches:
                found += batch
    assert {row.invoice_id for row in found} <= set(ids)
    assert (source.digest() is not None) == CHANGES[change]
    if CHANGES[change]:
        assert len(found) == len(ids) * (2 if change is appended else 1)


@pytest.mark.anyio
@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="needs to see how far a file was read")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("packed", [False, True])
async def test_reads_no_further_than_it_must(form, packed, tmp_path):
    """The first batch of a 20 MB input comes after a few blocks of it."""
    kind = Input(form, "file", packed)
    noise = hashlib.shake_128(b"").hexdigest(10_000_000)
    path = tmp_path / f"ids.{form.format}{'.gz' if packed else ''}"
    path.write_bytes(kind.write([form.line(noise[at : at + 100]) for at in range(0, len(noise), 100)]))
    source = await kind.open(str(path))
    async with contextlib.aclosing(source.batches()) as batches:
        await anext(batches)
        assert 0 < bytes_read(path) <= FEW_BLOCKS < path.stat().st_size
    path.unlink()


def bytes_read(path: Path) -> int:
    """How far this process has read the file `path`, which it has open."""
    [number] = [fd.name for fd in Path("/proc/self/fd").iterdir() if os.path.realpath(fd) == os.path.realpath(path)]
    return int(Path(f"/proc/self/fdinfo/{number}").read_text().split()[1])


@pytest.mark.anyio
@pytest.mark.parametrize("packed", [False, True])
async def test_a_pipe_hands_on_what_it_has(packed):
    """What a producer has written is handed out while it is still thinking about the next row."""
    with piped_stdin() as end:
        source = await to_thread.run_sync(open_source, "-")
        async with contextlib.aclosing(source.batches()) as batches:
            for text in ("a", "b", "c"):
                line = f"{text}\n".encode()
                end.write(gzip.compress(line) if packed else line)
                assert [row.invoice_id for row in await anext(batches)] == [text]
            end.close()
            with pytest.raises(StopAsyncIteration):
                await anext(batches)


CANCEL_STDIN = """
import anyio
from bulkfetch.sources import open_source

async def main(source):
    with anyio.move_on_after(0.05):
        async for _ in source.batches():
            pass

anyio.run(main, open_source("-"))
"""


def test_waiting_for_a_pipe_can_be_cancelled():
    """A process told to stop ends although its producer is silent and keeps the pipe open."""
    with subprocess.Popen([sys.executable, "-c", CANCEL_STDIN], stdin=subprocess.PIPE) as process:
        try:
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


IDS = st.text(min_size=1, max_size=40).filter(lambda text: check_invoice_id(text) is None and text.count("|") < 2)
LINE_ENDS = st.sampled_from(["\n", "\r\n"])
BOMS = st.sampled_from([b"", b"\xef\xbb\xbf"])
NOTES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def read_back(folder: Path, name: str, data: bytes):
    """The rows of `data`, in a file called `name`."""
    path = folder / name
    path.write_bytes(data)
    source = open_source(str(path))
    return anyio.run(collect, source)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sources")


@given(
    ids=st.lists(IDS, max_size=20),
    line_end=LINE_ENDS,
    bom=BOMS,
    between=st.sampled_from(["", "\n", "# note, with; marks\n", " \t \n", "\r\n"]),
    around=st.sampled_from(["", " ", "\t"]),
    closed=st.booleans(),
)
def test_txt_reads_back_identical(folder, ids, line_end, bom, between, around, closed):
    """Any IDs, one a line, come back as they are, through line ends, blanks, comments and a BOM."""
    text = "".join(f"{between}{around}{invoice_id}{around}{line_end}" for invoice_id in ids)
    data = bom + (text if closed else text.removesuffix("\n")).encode()
    assert [row.invoice_id for row in read_back(folder, "ids.txt", data)] == ids


@given(
    rows=st.lists(st.tuples(IDS, NOTES), max_size=20),
    line_end=LINE_ENDS,
    bom=BOMS,
    delimiter=st.sampled_from(",;\t"),
    packed=st.booleans(),
)
def test_csv_reads_back_identical(folder, rows, line_end, bom, delimiter, packed):
    """Any IDs and any other column, line breaks in it included, come back as the CSV writer took them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("note", "id"), *((note, invoice_id) for invoice_id, note in rows)])
    data = bom + text.getvalue().encode()
    found = read_back(folder, "ids.csv.gz" if packed else "ids.csv", gzip.compress(data, 1) if packed else data)
    assert [(row.invoice_id, row.fields["note"]) for row in found] == rows


@given(rows=st.lists(st.tuples(IDS, NOTES), max_size=20), line_end=LINE_ENDS, bom=BOMS, ascii_only=st.booleans())
def test_jsonl_reads_back_identical(folder, rows, line_end, bom, ascii_only):
    """Any IDs and any other member come back as the JSON writer took them."""
    lines = [json.dumps({"id": invoice_id, "note": note}, ensure_ascii=ascii_only) for invoice_id, note in rows]
    data = bom + "".join(line + line_end for line in lines).encode()
    found = read_back(folder, "ids.jsonl", data)
    assert [(row.invoice_id, row.fields["note"]) for row in found] == rows


NASTY = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"\n",
                b"\r\n",
                b"\r",
                b'"',
                b'""',
                b",",
                b";",
                b"\t",
                b" ",
                b"#",
                b"id",
                b"a1",
                b"\0",
                b"\xff",
                b"\xc3",
                b'{"id":',
                b'"x"',
                b"}",
                b"[",
                b"1e999",
                b"null",
                b"\xef\xbb\xbf",
                b"\xc2\xa0",
                b"\x1f\x8b",
                b"\\ud800",
            ]
        ),
        st.binary(max_size=6),
    ),
    max_size=40,
).map(b"".join)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(tail=NASTY)
@example(tail=b"a" * 70_000 + b"\nb\n" + b"[" * 60_000)
@example(tail=b"\xef\xbb\xbf\xef\xbb\xbf\n")
@example(tail=b'{"id": 1' + b"0" * 5000 + b"}\n" + b'"a\n' * 3)
def test_arbitrary_bytes_are_accounted_for(folder, form, tail):
    """Whatever the bytes, every line that says anything ends in one row, or the input as a whole is refused."""
    data = form.head + b"\n" + tail
    try:
        rows = read_back(folder, f"ids.{form.format}", data)
    except FatalError as error:
        assert str(error).isprintable()
        return
    said = [number for number, line in enumerate(data.split(b"\n"), 1) if is_said(form, line.strip(b" \r"))]
    said = [number for number in said if number >= form.first_line]
    found = [row.line for row in rows]
    if form.format == "csv" and b'"' in tail:
        # A quoted field may span lines: then they are one row, under the first of them.
        assert found == sorted(set(found) & set(said))
        # A quoted cell of nothing but line ends is a ghost.
        assert found or re.fullmatch('[\\s",#\ufeff]*', tail.decode("utf-8", "replace")) or not said
    else:
        assert found == said


def is_said(form: Form, line: bytes) -> bool:
    """Whether a line, without the blanks around it, has to be accounted for."""
    text = line.decode("utf-8", "replace").lstrip("\ufeff").strip(" \t\r")
    if form.format == "csv":
        # What stands behind a closing quote, a tab included, is part of the cell.
        cells = line.decode("utf-8", "replace").lstrip("\ufeff").strip(" \r")
        ghost = re.fullmatch(r'(\s*|"\s*")(,(\s*|"\s*"))*', cells)
        return not ghost and not text.startswith("#") and text != "number,id"
    return bool(text.strip()) and not text.startswith("#") if form.format == "txt" else bool(text)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(data=st.binary(max_size=300))
@example(data=b"\0" * 300)
@example(data=b"")
@example(data=b"\x1f")
def test_arbitrary_bytes_called_gzip_are_refused_in_words(folder, form, data):
    """Bytes that are no gzip never raise anything but the error that names the file."""
    with pytest.raises(FatalError, match=r"ids\..*\.gz: the gzip data"):
        read_back(folder, f"ids.{form.format}.gz", data)
