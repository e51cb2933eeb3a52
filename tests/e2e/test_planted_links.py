"""Symbolic links that somebody has planted in an archive lead nothing out of it."""

import shutil
import stat

import pytest
from support.program import bulkfetch, ids_of, rows, sandbox, write_ids

BEFORE = b"not ours"


@pytest.fixture(scope="module")
def served():
    with sandbox(invoices=3) as running:
        yield running


@pytest.fixture
def run(tmp_path, served):
    """Runs over all invoices, into one archive."""
    source = write_ids(tmp_path / "ids.txt", ids_of(served))
    return lambda verb="run": bulkfetch(verb, source, "--to", tmp_path / "archive", BULKFETCH_API_URL=served.api_url)


@pytest.mark.parametrize("planted", ["manifests", ".bulkfetch"])
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_link_in_place_of_a_directory(tmp_path, served, run, planted, verb):
    """A run and a plan end before the first request; what the link leads to stays as it is."""
    archive, outside, before = tmp_path / "archive", tmp_path / "outside", served.stats.links
    archive.mkdir()
    outside.mkdir()
    (archive / planted).symlink_to(outside)
    done = run(verb)
    if (planted, verb) != (".bulkfetch", "plan"):  # a plan reads nothing there but the ledger, if there is one
        assert done.returncode == 5
        assert f"{planted} is a symbolic link" in done.stderr
    assert list(outside.iterdir()) == []
    assert served.stats.links == before


@pytest.mark.parametrize(
    "name", ["ledger.sqlite3", "lock", "tmp", "quarantine", "doubts-20250101T000000Z-0a1b2c", "seen-x"]
)
def test_a_link_inside_of_bulkfetchs_own_directory(tmp_path, run, name):
    """Neither index, lock nor temporary file is written where a link leads to."""
    assert run().returncode == 0
    own, outside = tmp_path / "archive" / ".bulkfetch", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(BEFORE)
    if (own / name).is_dir():
        shutil.rmtree(own / name)
    (own / name).unlink(missing_ok=True)
    (own / name).symlink_to(outside if name in ("tmp", "quarantine") else outside / "file")
    done = run()
    assert done.returncode == 5
    assert f"{name} is a symbolic link" in done.stderr
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("file", BEFORE)]


def test_a_link_in_place_of_a_manifest(tmp_path, run):
    """A manifest that is a link is neither read nor mended: its torn end would be cut off outside."""
    assert run().returncode == 0
    archive, outside = tmp_path / "archive", tmp_path / "outside.jsonl"
    outside.write_bytes(BEFORE)
    (archive / "manifests" / "20250101T000000Z-0a1b2c.jsonl").symlink_to(outside)
    done = run()
    assert done.returncode == 5
    assert "20250101T000000Z-0a1b2c.jsonl is no file" in done.stderr
    assert outside.read_bytes() == BEFORE


def test_the_archive_is_as_private_as_what_is_in_it(tmp_path, run):
    """The archive's root has the mode of what is in it, and is not open to everybody."""
    assert run().returncode == 0
    archive = tmp_path / "archive"
    modes = {path: stat.S_IMODE((archive / path).stat().st_mode) for path in (".", "manifests", ".bulkfetch")}
    assert modes == {".": 0o750, "manifests": 0o750, ".bulkfetch": 0o700}
    assert len(rows(archive)) == 3
