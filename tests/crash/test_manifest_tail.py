"""Manifests whose writer died: what was durable is read, what was torn is cut off and kept, damage is named."""

import random
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkfetch.errors import FatalError, UsageError
from bulkfetch.manifest import ManifestWriter, encode_rows, list_runs, read_rows
from bulkfetch.manifest.row_file import heal, whole_size
from bulkfetch.models import Outcome, Row

RUN = "20250101T000000Z-000001"
ROWS = [
    Row(
        run=RUN, invoice_id=f"INV-{number}", outcome=Outcome.STORED, key=f"INV-{number}.pdf", size=number, sha256="0",
        message="a\n€ \u2028" * number, started_at="", finished_at="",
    )
    for number in range(4)
]  # fmt: skip
LINES = [encode_rows([row]) for row in ROWS]
WHOLE = b"".join(LINES)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("manifest")


def load(path):
    return [row for rows, _ in read_rows(path) for row in rows]


def test_every_prefix_loads_with_exactly_its_whole_rows(place):
    """Cut after any byte, a manifest heals to the whole rows before the cut, and the rest is kept aside."""
    path, aside = place / "cut.jsonl", place / "cut.torn"
    ends = [0, len(LINES[0]), len(LINES[0] + LINES[1])]
    for cut in range(ends[-1] + 1):
        aside.unlink(missing_ok=True)
        path.write_bytes(WHOLE[:cut])
        heal(path, aside)
        whole = sum(end <= cut for end in ends) - 1
        assert load(path) == ROWS[:whole]
        torn = WHOLE[ends[whole] : cut]
        assert (aside.read_bytes() if aside.exists() else b"") == torn


@example(len(LINES[0]) - 1, ord(" "))
@given(st.integers(0, len(WHOLE) - len(LINES[-1]) - 1), st.sampled_from(b'\n\0 x{}"\xff'))
def test_damage_before_the_last_line_is_named_not_cut(place, at, byte):
    """A byte changed in the middle either leaves rows in their number (its seal tells then) or is a named error."""
    path = place / "flip.jsonl"
    data = bytearray(WHOLE)
    data[at] = byte
    path.write_bytes(data)
    number = WHOLE[:at].count(b"\n") + 1
    if whole_size(path) < len(data):
        assert number == len(LINES) - 1  # it joined the last two lines into one that is no row
        return
    try:
        assert len(load(path)) == data.count(b"\n") == len(ROWS)
    except FatalError as error:
        assert f"{path} is damaged in line {number}:" in str(error)


@pytest.mark.parametrize("tail", [b"garbage\n", b"{}\n", b"\n", b"\0" * 5000, b"\0" * 70_000 + b"\n", b'{"v":1'])
def test_a_last_line_that_is_no_row_is_torn(place, tail):
    """What follows the last whole row is cut off, ended by a newline or not, longer than a block or not."""
    path = place / "tail.jsonl"
    path.write_bytes(WHOLE + tail)
    heal(path, place / "tail.torn")
    assert path.read_bytes() == WHOLE
    assert (place / "tail.torn").read_bytes() == tail


@pytest.mark.parametrize("lines", [[b'{"v":2,"x":1}\n'], [LINES[0], b'{"v":2}\n', LINES[1]]])
def test_a_newer_versions_row_is_neither_torn_nor_damage(place, lines):
    """A row by a newer bulkfetch asks for an upgrade, and the file is left as it is."""
    path = place / "newer.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match="upgrade"):
        heal(path, place / "newer.torn")
        load(path)
    assert path.read_bytes() == b"".join(lines)


def test_the_line_is_counted_over_the_whole_file(place):
    """Damage far into a large manifest, read from its middle, is still named by its line in the file."""
    path = place / "large.jsonl"
    path.write_bytes(LINES[1] * 9000 + b"damage\n" + LINES[1] * 10)
    with pytest.raises(FatalError, match="in line 9001:"):
        for _ in read_rows(path, len(LINES[1]) * 5000):
            pass


def test_a_torn_manifest_is_mended_by_the_next_run(tmp_path):
    """Opening the archive mends it: the whole rows are known, the torn tail lies in the state directory."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / f"{RUN}.jsonl").write_bytes(WHOLE[:-3])
    assert anyio.run(known, tmp_path, [row.invoice_id for row in ROWS]) == {"INV-0", "INV-1", "INV-2"}
    assert (tmp_path / ".bulkfetch" / f"{RUN}.jsonl.torn").read_bytes() == LINES[-1][:-3]


async def known(root: Path, ids):
    async with ManifestWriter.open(root, clock=lambda: datetime.now(UTC)) as manifest:
        assert manifest.adopting
        return set(await manifest.history.stored(ids))


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import anyio
from bulkfetch.manifest import ManifestWriter
from bulkfetch.models import Outcome, Row

async def caller(manifest, name):
    for number in range(100_000):
        row = Row(run=manifest.run, invoice_id=f"{name}-{number}", outcome=Outcome.STORED, key=f"{name}-{number}",
                  size=1, sha256="0", started_at="", finished_at="")
        await manifest.append([row])
        print(row.invoice_id, flush=True)

async def main():
    async with ManifestWriter.open(Path(sys.argv[1]), clock=lambda: datetime.now(UTC)) as manifest:
        async with anyio.create_task_group() as tasks:
            for name in range(8):
                tasks.start_soon(caller, manifest, name)

anyio.run(main)
"""


def test_a_killed_run_keeps_every_row_it_was_told_is_durable(tmp_path):
    """After kill -9 at random moments every row that `append` returned for is in a manifest, once, and known."""
    promised = []
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            promised += [process.stdout.readline() for _ in range(random.randrange(1, 1500))]
            process.send_signal(signal.SIGKILL)
            promised += process.stdout.readlines()
        ids = [line.rstrip("\n") for line in promised if line.endswith("\n")]
        assert ids
        assert anyio.run(known, tmp_path, ids) == set(ids)
        for run in list_runs(tmp_path):
            rows = [row.invoice_id for row in load(run.manifest)]
            assert len(rows) == len(set(rows))
