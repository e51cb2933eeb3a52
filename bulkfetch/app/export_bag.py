"""A BagIt bag (RFC 8493) of an archive's objects: hard links, so that it takes hardly any disk."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bulkfetch import __version__
from bulkfetch.durable import disk_errors
from bulkfetch.errors import FatalError, UsageError
from bulkfetch.keys import key_path
from bulkfetch.manifest import list_runs
from bulkfetch.text import printable

_DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


def write_bag(root: Path, bag: Path, stored: Iterable[Mapping[str, Any]]) -> int:
    """Make the bag of the objects that `stored`, rows of the archive `root`, name; how many they are. The manifests and
    summaries of the runs that have ended go along as tag files.

    The digests are those of the rows: whoever validates the bag, checks the objects against them.

    Raises:
        UsageError: `bag` is there already.
        FatalError: an object is missing, or the bag cannot be written.
    """
    if bag.exists():
        raise UsageError(f"{printable(str(bag))} is there already; name a new directory")
    part = bag.with_name(f"{bag.name}.part")
    with disk_errors(f"write {bag}"):
        shutil.rmtree(part, ignore_errors=True)
        (part / "data").mkdir(parents=True)
        try:
            objects = _fill(root, part, stored)
            part.rename(bag)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return objects


def _fill(root: Path, bag: Path, stored: Iterable[Mapping[str, Any]]) -> int:
    objects, size = 0, 0
    with (bag / "manifest-sha256.txt").open("w", encoding="utf-8", newline="\n") as manifest:
        for row in stored:
            key = str(row["key"])
            _place(root / Path(*key_path(key)), bag / "data" / Path(*key_path(key)))
            manifest.write(f"{row['sha256']}  data/{_written(key)}\n")
            objects, size = objects + 1, size + int(row["size"])
    info = {
        "Bag-Software-Agent": f"bulkfetch {__version__}",
        "Bagging-Date": f"{datetime.now(UTC):%Y-%m-%d}",
        "Payload-Oxum": f"{size}.{objects}",
    }
    (bag / "bag-info.txt").write_text("".join(f"{name}: {value}\n" for name, value in info.items()), "utf-8")
    (bag / "bagit.txt").write_text(_DECLARATION, "utf-8")
    for run in list_runs(root):
        for path in (run.manifest, run.summary) if run.summary else ():
            if path is not None:
                _place(path, bag / "manifests" / path.name)
    tags = sorted(path for path in bag.rglob("*") if path.is_file() and path.relative_to(bag).parts[0] != "data")
    lines = [f"{_digest(path)}  {path.relative_to(bag).as_posix()}\n" for path in tags]
    (bag / "tagmanifest-sha256.txt").write_text("".join(lines), "utf-8")
    return objects


def _place(source: Path, target: Path) -> None:
    """Link `source` as `target`, or copy it to another file system."""
    try:
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise FatalError(f"{printable(str(source), 1000)} is missing: bulkfetch verify names all that is") from None
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target, follow_symlinks=False)


def _written(key: str) -> str:
    """`key` as a manifest has it. By RFC 8493 a percent sign is encoded, too, but bagit.py takes it as it is."""
    return key.replace("\n", "%0A").replace("\r", "%0D")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
