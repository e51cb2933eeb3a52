"""Disks that cannot give a file its final name at once: refused before anything is asked for, by that name."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disks import AS_ROOT
from support.doubles import GivenBody
from support.puts import put

from bulkfetch.errors import FatalError
from bulkfetch.stores import LocalStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """A new exFAT, in a file that is mounted."""
    if not shutil.which("mkfs.exfat") or not shutil.which("losetup"):
        pytest.skip("no mkfs.exfat here (exfatprogs)")
    image, disk = tmp_path / "exfat.img", tmp_path / "exfat"
    with image.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    disk.mkdir()
    subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
    found = subprocess.run(["losetup", "--find", "--show", image], check=False, capture_output=True, text=True)
    device = found.stdout.strip()
    if not device:
        pytest.skip("no loop devices here")
    try:
        for command in (["mount", "-t", "exfat"], ["mount.exfat-fuse"]):
            if shutil.which(command[0]) and not subprocess.run([*command, device, disk], check=False).returncode:
                break
        else:
            pytest.skip("no exFAT here")
        yield disk
        subprocess.run(["umount", disk], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@AS_ROOT
async def test_exfat_is_refused(exfat: Path) -> None:
    """An archive cannot begin on exFAT; the message says why, and nothing but empty directories is left."""
    with pytest.raises(FatalError, match=r"no hard links .*exFAT.*choose a destination on another one"):
        async with LocalStore.open(exfat / "archive", "run-1"):
            pass
    assert [path for path in (exfat / "archive").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
async def test_each_way_of_saying_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int) -> None:
    """File systems that are mounted over a network or by FUSE refuse links in words of their own."""

    def link(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FatalError, match="no hard links"):
        async with LocalStore.open(tmp_path / "archive", "run-1"):
            pass
    assert [path for path in (tmp_path / "archive").rglob("*") if path.is_file()] == []


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Path]:
    """A pool of two disks where a new file goes to the one that has its directory."""
    if not shutil.which("mergerfs") or not shutil.which("fusermount"):
        pytest.skip("no mergerfs here")
    one, other, disk = (tmp_path / name for name in ("one", "other", "pool"))
    (one / "archive/.bulkfetch/tmp").mkdir(parents=True)
    (other / "archive/2024").mkdir(parents=True)
    disk.mkdir()
    command = ["mergerfs", "-o", "category.create=epmfs", f"{one}:{other}", disk]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no FUSE here")
    yield disk
    subprocess.run(["fusermount", "-u", disk], check=True)


@AS_ROOT
async def test_a_pool_that_cannot_link_across_its_disks(pool: Path) -> None:
    """The message names the pool's setting that mends it."""
    async with LocalStore.open(pool / "archive", "run-1") as store:
        with pytest.raises(FatalError, match=r"another branch of a pool.*category\.create=mfs"):
            await put(store, "2024/INV-1.pdf", GivenBody(b"%PDF-1"))
