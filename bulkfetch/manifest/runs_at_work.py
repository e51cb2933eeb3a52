"""The notes that runs leave of themselves while they are at work: what they read, where they run, and since when.

How far a run is its rows tell. On a disk a run holds a lock on its note, so whoever looks knows whether it is alive. A
run that ends in order takes its note away. In a bucket a note is an object that is put once and stays.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from bulkfetch.durable import make_directory, write_all
from bulkfetch.keys import STATE
from bulkfetch.manifest.row_file import whole_size

NOTES = f"{STATE}/runs"
"""The folder of an archive that holds the notes."""

_TAIL_BYTES = 1 << 16


class RunNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a run says of itself when it begins. `estimate` is how many rows its source was thought to have (None:
    unknown), `pid` its process on `host`, `started_at` UTC ISO 8601."""

    v: int = 1
    run: str
    source: str
    estimate: int | None
    host: str
    pid: int
    started_at: str


class _Moment(msgspec.Struct):
    finished_at: str


def note_key(run: str) -> str:
    """Where the note of `run` is, relative to the archive."""
    return f"{NOTES}/{run}.json"


@contextmanager
def announced(root: Path, note: RunNote) -> Iterator[None]:
    """Keep `note` in the archive on disk `root`, and show in this block that its run is alive.

    Raises:
        OSError: the note cannot be written.
    """
    path = root / note_key(note.run)
    make_directory(path.parent, 0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        write_all(fd, msgspec.json.encode(note))
        yield
    finally:
        os.close(fd)


def forget_note(root: Path, run: str) -> None:
    """Take the note of `run` away, now that its summary says all that it does, and more."""
    with suppress(OSError):
        (root / note_key(run)).unlink()


def decode_note(data: bytes) -> RunNote | None:
    """The note in `data`; None if it is none, or a newer bulkfetch wrote it."""
    try:
        note = msgspec.json.decode(data, type=RunNote)
    except ValueError:
        return None
    return note if note.v == 1 else None


def read_note(root: Path, run: str) -> tuple[RunNote | None, bool]:
    """The note of `run` in the archive on disk `root`, None if there is none to read, and whether the run is alive.

    Raises:
        OSError: the note cannot be looked at.
    """
    try:
        fd = os.open(root / note_key(run), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, False
    with os.fdopen(fd, "rb") as file:
        alive = False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            alive = True
        return decode_note(file.read()), alive


def last_row_at(manifest: Path | None) -> str | None:
    """When the last whole row of `manifest` was finished, UTC ISO 8601; None where there is no row.

    Raises:
        OSError: the manifest cannot be read.
        UsageError: a newer bulkfetch wrote it.
    """
    if manifest is None:
        return None
    end = whole_size(manifest)
    with manifest.open("rb") as file:
        file.seek(max(0, end - _TAIL_BYTES))
        last = file.read(min(end, _TAIL_BYTES)).rstrip(b"\n").rpartition(b"\n")[2]
    try:
        return msgspec.json.decode(last, type=_Moment).finished_at
    except ValueError:
        return None
