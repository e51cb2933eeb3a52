"""An archive on btrfs, whose directories list only what was in them when they were opened."""

from pathlib import Path

import pytest
from support.disks import AS_ROOT
from support.program import bulkfetch, ids_of, objects, pdf_of, sandbox, started, stored_once, summary, until, write_ids


@AS_ROOT
@pytest.mark.parametrize("nameless", [True, False])
def test_a_run_into_btrfs_completes(btrfs: Path, tmp_path: Path, nameless: bool) -> None:
    """On btrfs, too, a run that follows a killed one sweeps what that left, archives everything once, and cleans up."""
    archive = btrfs / "archive"
    names = {} if nameless else {"stores.local.temp_files._NAMELESS": 0}
    with sandbox(invoices=40) as served:
        ids = ids_of(served)
        args = ("run", write_ids(tmp_path / "ids.txt", ids), "--to", archive, "--api-url", served.api_url)
        with started(*args, BULKFETCH_API_RATE="20") as killed:
            until(lambda: len(objects(archive)) > 3, killed)
            killed.kill()
            killed.wait()
        left = archive / ".bulkfetch/tmp/dead.1.part"
        left.write_bytes(b"left")

        done = bulkfetch(*args, constants=names)

        assert done.returncode == 0, done.stderr
        assert objects(archive) == {f"{invoice_id}.pdf": pdf_of(served, invoice_id) for invoice_id in ids}
    stored_once(archive, ids)
    assert summary(archive).complete
    assert list(left.parent.iterdir()) == []
