"""Disks in trouble: small ones, read-only ones, and a user who may not write."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and changing the user need root")

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system in memory with the options given."""
    disks: list[Path] = []

    def mounted(options: str, name: str = "disk") -> Path:
        disk = tmp_path / name
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=False).returncode:
            pytest.skip("no mounts here")
        disks.append(disk)
        return disk

    yield mounted
    for disk in disks:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A new btrfs, in a file that is mounted."""
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("no mkfs.btrfs here (btrfs-progs)")
    image, disk = tmp_path / "btrfs.img", tmp_path / "btrfs"
    with image.open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    disk.mkdir()
    for command in (["mkfs.btrfs", "-q", str(image)], ["mount", "-o", "loop", str(image), str(disk)]):
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            pytest.skip(f"no btrfs here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[None]:
    """The test runs as a user who owns nothing, `tmp_path` neither."""
    os.seteuid(65534)
    yield
    os.seteuid(0)
