"""A disk that is blind to case, where the kernel has none: the system calls of this process fold the names in it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import RLock
from typing import Any

import pytest

from bulkfetch.keys import fold


class FoldingDisk:
    """Lets `os.open`, `link`, `mkdir` and `stat` find what is below `root` under each spelling, as such a disk does; a
    new name keeps the spelling that it is made with."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._lock = RLock()
        self._list = os.listdir
        real_open, real_link, real_mkdir, real_stat = os.open, os.link, os.mkdir, os.stat

        def folding_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            return real_open(self._spelt(path, dir_fd), flags, mode, dir_fd=dir_fd)

        def folding_link(src: Any, dst: Any, *, dst_dir_fd: int | None = None, **more: Any) -> None:
            with self._lock:  # no other name comes between the look and the link
                real_link(src, self._spelt(dst, dst_dir_fd), dst_dir_fd=dst_dir_fd, **more)

        def folding_mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            with self._lock:
                real_mkdir(self._spelt(path, dir_fd), mode, dir_fd=dir_fd)

        def folding_stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
            return real_stat(self._spelt(path, dir_fd), dir_fd=dir_fd, follow_symlinks=follow_symlinks)

        for name, folding in (
            ("open", folding_open),
            ("link", folding_link),
            ("mkdir", folding_mkdir),
            ("stat", folding_stat),
        ):
            monkeypatch.setattr(os, name, folding)

    def _spelt(self, path: Any, dir_fd: int | None) -> Any:
        """`path` as it is spelt on the disk; unchanged where it is not below the root."""
        if dir_fd is not None:
            where = os.readlink(f"/proc/self/fd/{dir_fd}")
            if not isinstance(path, str) or path == "." or not Path(where).is_relative_to(self.root):
                return path
            return self._there(where, path)
        if isinstance(path, int) or not Path(os.fsdecode(path)).is_relative_to(self.root):
            return path
        spelt = self.root
        for part in Path(os.fsdecode(path)).relative_to(self.root).parts:
            spelt /= self._there(spelt, part)
        return spelt

    def _there(self, folder: Any, name: str) -> str:
        try:
            return next((entry for entry in self._list(folder) if fold(entry) == fold(name)), name)
        except OSError:
            return name


@pytest.fixture(params=["folding calls", "ext4 casefold"])
def folding(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory on a disk that is blind to case."""
    root = tmp_path / "folding"
    root.mkdir()
    if request.param == "folding calls":
        FoldingDisk(root, monkeypatch)
        yield root
        return
    image = tmp_path / "ext4.img"
    with image.open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    for command in (
        ["mkfs.ext4", "-q", "-O", "casefold", str(image)],
        ["mount", "-o", "loop", str(image), str(root)],
    ):
        try:
            done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"no {error.filename} here")
        if done.returncode:
            pytest.skip(f"no ext4 that folds case here: {done.stderr.strip().splitlines()[0]}")
    try:
        archive = root / "folding"
        archive.mkdir()
        if subprocess.run(["chattr", "+F", str(archive)], check=False, capture_output=True).returncode:
            pytest.skip("no directory can be made to fold case here")
        yield archive
    finally:
        subprocess.run(["umount", root], check=True)
