"""The archive's directory, for threads: everything here blocks, and raises `OSError` as it comes."""

import hashlib
import os
import re
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

from bulkfetch.durable import make_directory
from bulkfetch.errors import FatalError
from bulkfetch.keys import STATE, KeyPath
from bulkfetch.stores.local.directories import Directories
from bulkfetch.stores.local.spellings import Spellings
from bulkfetch.stores.local.temp_files import OBJECT_MODE, TempFile, TempFiles
from bulkfetch.stores.quarantine import QUARANTINE, Quarantine
from bulkfetch.text import printable

BLOCK = 1024 * 1024
"""Bytes that are read or written at once."""

FREE_FLOOR = 64 * BLOCK
"""Bytes that must be free before a run begins."""

_needs_no_quotes = re.compile(r"[A-Za-z0-9._/-]+").fullmatch

_PROBE = f"{STATE}-probe"


def is_case_blind(root: Path) -> bool:
    """Whether names that differ only in case are one name in the archive `root`. Only looks, and blocks; False where
    there is no archive yet.

    Raises:
        OSError: `root` cannot be read.
    """
    state = root / STATE
    other = root / STATE.upper()
    return state.exists() and other.exists() and state.samefile(other)


class Tree:
    """A root directory, by descriptor, with this run's temporary files and quarantine in its private directory.

    `spellings` is None where the disk tells names apart that differ in case: there a name is spelt as it was asked for.
    """

    def __init__(self, root: Path, run: str, quarantine: Quarantine) -> None:
        root = root.absolute()
        make_directory(root, 0o750)
        with ExitStack() as opened:
            self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, self.root_fd)
            with self.directories() as directories:
                directories.make((STATE,))
                temp_fd = os.dup(directories.make((STATE, "tmp"), 0o700))
                self.temp_files = TempFiles(temp_fd, run)
                opened.callback(self.temp_files.close)
                directories.sync()
            self.temp_files.sweep()
            self._probe(root)
            self._opened = opened.pop_all()
        # A path need not be UTF-8, and what names the archive in records must be.
        self.name = printable(str(root), limit=4096)
        self.spellings = Spellings() if is_case_blind(root) else None
        self._uri = root.as_uri()
        self._quarantine = quarantine

    def close(self) -> None:
        """Give the descriptors up, and say that the run is over."""
        self._opened.close()

    def directories(self) -> Directories:
        """The directories of the archive, for one piece of work."""
        return Directories(self.root_fd)

    def uri(self, key: str) -> str:
        """The file URI of `key`."""
        return f"{self._uri}/{key if _needs_no_quotes(key) else quote(key)}"

    def publish(self, temp: TempFile, path: KeyPath, directories: Directories) -> bool:
        """Give `temp` its final name. False if the name is taken; then `temp` is still there.

        The new entry is durable once `directories` are synced.
        """
        try:
            parent = directories.make(path[:-1])
            self.temp_files.link(temp, path[-1], parent)
        except (FileExistsError, NotADirectoryError):
            return False
        self.temp_files.discard(temp)
        return True

    def spelling(self, path: KeyPath) -> KeyPath:
        """`path` as it is spelt on the disk."""
        if self.spellings is None:
            return path
        with self.directories() as directories:
            return self.spellings.find(path, directories)

    def measure(self, path: KeyPath) -> tuple[int, str] | None:
        """Size and SHA-256 of the object at `path`, which is durable then; None where it is no regular file."""
        with self.directories() as directories:
            try:
                fd = directories.open_object(path)
            except FileNotFoundError:
                return None
            with os.fdopen(fd, "rb", buffering=0) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
                os.fsync(fd)
            _raise_first(directories.sync())
        return size, digest

    def secure(self, path: KeyPath) -> None:
        """Make the object at `path` and its name durable: the run that put it there may have died before it did so."""
        with self.directories() as directories:
            fd = directories.open_object(path)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            _raise_first(directories.sync())

    def quarantine(self, temp: TempFile, sha256: str, size: int) -> str | None:
        """Keep `temp` aside, durably, and return where, relative to the root; None if it was not kept."""
        path = (STATE, QUARANTINE, sha256)
        with self._quarantine.no_harm(), self.directories() as directories:
            if self._quarantine.admits(directories.make(path[:-1], 0o700), sha256, size):
                temp.sync()
                self.publish(temp, path, directories)
                _raise_first(directories.sync())
                return "/".join(path)
        return None

    def set_aside(self, path: KeyPath) -> None:
        """Move the object at `path` to quarantine, durably; if there is none, nothing is done."""
        with self.directories() as directories:
            try:
                fd = directories.open_object(path)
            except FileNotFoundError:
                return
            with os.fdopen(fd, "rb", buffering=0) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            here, name = directories.find(path[:-1]), path[-1]
            there = directories.make((STATE, QUARANTINE), 0o700)
            with suppress(FileExistsError):
                os.link(name, sha256, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
            _raise_first(directories.sync())
            os.unlink(name, dir_fd=here)
            _raise_first(directories.sync())

    def _probe(self, root: Path) -> None:
        """Prove that objects can be made durable and published here."""
        status = os.fstatvfs(self.root_fd)
        # Some network file systems report no sizes at all: zero blocks says nothing.
        if status.f_blocks and status.f_bavail * status.f_frsize < FREE_FLOOR:
            raise FatalError(f"{printable(str(root))}: less than {FREE_FLOOR // BLOCK} MiB are free; free some space")
        try:
            self._publish_probe()
        except OSError:
            # Not every file system has nameless files, nor every system the /proc through which they get their name.
            if not self.temp_files.use_names():
                raise
            self._publish_probe()

    def _publish_probe(self) -> None:
        with self.temp_files.dropping(self.temp_files.create()) as temp, self.directories() as directories:
            try:
                temp.write([b"bulkfetch"])
                seal(temp)
                self.publish(temp, (_PROBE,), directories)
                _raise_first(directories.sync())
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(_PROBE, dir_fd=self.root_fd)


def seal(temp: TempFile) -> None:
    """Make `temp` as readable as objects are, and its content durable."""
    if not temp.ready:
        os.fchmod(temp.fd, OBJECT_MODE)
    temp.sync()


def _raise_first(failed: dict[KeyPath, OSError]) -> None:
    for error in failed.values():
        raise error
