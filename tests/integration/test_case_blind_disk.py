"""A disk on which names that differ only in case are one: two invoices never meet there."""

import subprocess
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.disks import AS_ROOT

from bulkfetch.app import archive
from bulkfetch.config import Api, Config, Destination
from bulkfetch.errors import ExitCode
from bulkfetch.keys import KeyTemplate, fold
from bulkfetch.models import Secret
from bulkfetch.sandbox import SandboxSettings, serve
from bulkfetch.stores.local.tree import is_case_blind


@pytest.fixture
def blind(tmp_path: Path):
    """An archive whose own directory answers to both spellings, as it does on such a disk."""
    root = tmp_path / "archive"
    for name in (".bulkfetch", ".BULKFETCH"):
        (root / name).mkdir(parents=True)
    mount = ["mount", "--bind", root / ".bulkfetch", root / ".BULKFETCH"]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no mounts here")
    yield root
    subprocess.run(["umount", root / ".BULKFETCH"], check=True)


def run_into(root: Path, tmp_path: Path) -> list[str]:
    """The names that a run of four invoices gives there."""

    async def main():
        settings = SandboxSettings(invoices=4)
        source = tmp_path / "ids.txt"
        await anyio.Path(source).write_text("".join(f"{each}\n" for each in settings.book().ids()))
        async with serve(settings) as sandbox:
            config = Config(api=Api(url=sandbox.api_url), destination=Destination(url=str(root), key="INV-{id}.pdf"))
            return await partial(archive, config, str(source), token=Secret(sandbox.token))()

    assert anyio.run(main).exit_code == ExitCode.COMPLETE
    return [path.name for path in root.glob("*.pdf")]


@AS_ROOT
def test_the_names_there_differ_in_more_than_case(blind: Path, tmp_path: Path) -> None:
    """What has upper-case letters gets a digest there, and nowhere else."""
    assert is_case_blind(blind)
    assert all("~" in name for name in run_into(blind, tmp_path))
    (tmp_path / "plain").mkdir()
    assert not is_case_blind(tmp_path / "plain")
    assert not any("~" in name for name in run_into(tmp_path / "plain", tmp_path))


@pytest.mark.parametrize(("one", "other"), [("re-1", "RE-1"), ("straße", "STRASSE"), ("ï", "Ï")])
def test_two_ids_never_meet_there(one: str, other: str) -> None:
    """Their names differ also once the disk has folded them; a name without case stays as it is."""
    keys = KeyTemplate.parse("{id}.pdf").for_blind_disk()
    assert fold(keys.key_for(one, {})) != fold(keys.key_for(other, {}))
    assert keys.key_for("2024-1", {}) == "2024-1.pdf"
