"""At each system call of a small run in turn the process is killed, or the disk fails: the promises hold every time.

The suite takes one point in STEP; BULKFETCH_TEST_SWEEP=all takes every one.
"""

import os
from pathlib import Path

import pytest
from support.program import assert_sound, bulkfetch, ids_of, objects, pdf_of, rows, sandbox, stored_once, write_ids
from support.syscalls import Fault, at_point, compiled

from bulkfetch.errors import ExitCode
from bulkfetch.manifest import verify_chain

INVOICES = 4
SIZE = 1_000_000
"""The mean size of a PDF in bytes: some are small enough to be held in memory, some are not."""

STEP = 20
FIRST_POINTS = range(1, STEP + 1) if os.environ.get("BULKFETCH_TEST_SWEEP") == "all" else (1,)

KILLED = -9
ENDS = {
    Fault.KILL: {KILLED},
    Fault.EIO: {ExitCode.COMPLETE, ExitCode.STOPPED},
    Fault.ENOSPC: {ExitCode.COMPLETE, ExitCode.STOPPED},
    Fault.DYING: {ExitCode.COMPLETE, ExitCode.STOPPED},
}
FIXES = {Fault.EIO: "check the disk", Fault.ENOSPC: "free some space", Fault.DYING: "check the disk"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    return compiled(tmp_path_factory.mktemp("library"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("first", FIRST_POINTS)
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
def test_every_call_may_be_the_last(tmp_path: Path, library: Path, fault: Fault, first: int) -> None:
    """Wherever the fault strikes: a documented exit code, the fix in the message, every row and every object sound; and
    the same command again completes the archive, everything stored once."""
    point = first + list(Fault).index(fault)
    with sandbox(invoices=INVOICES, size=SIZE) as served:
        ids = ids_of(served)
        source = write_ids(tmp_path / "ids.txt", ids)
        expected = {f"{invoice_id}.pdf": pdf_of(served, invoice_id) for invoice_id in ids}
        while True:
            archive, met = tmp_path / f"archive-{point}", tmp_path / f"met-{point}"
            args = ("run", source, "--to", archive, "--api-url", served.api_url, "--workers", 3)
            failing = at_point(point, fault, archive, library=library, met=met)

            struck = bulkfetch(*args, **failing)

            told = f"{fault} at call {point}: {struck.returncode}, {struck.stderr}"
            if not met.exists():
                assert struck.returncode == 0, told
                break
            assert struck.returncode in ENDS[fault], told
            assert struck.returncode != ExitCode.STOPPED or FIXES[fault] in struck.stderr, told
            assert_sound(archive)
            held = objects(archive)
            held.pop(".bulkfetch-probe", None)
            assert held.items() <= expected.items(), told
            again = bulkfetch(*args)
            assert again.returncode == 0, f"{told}; then {again.stderr}"
            assert objects(archive) == expected, told
            assert sorted(row.invoice_id for row in rows(archive)) == sorted(ids), told
            stored_once(archive, ids)
            assert verify_chain(archive) == [], told
            point += STEP
    assert point > 4 * STEP, "the calls were not counted"
