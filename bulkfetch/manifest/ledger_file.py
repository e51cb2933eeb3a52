"""The ledger's file, and the ways in which it is opened.

A run that has the archive to itself writes into the file. Processes at work beside each other neither copy it nor write
it: it is their base, and each keeps what is newer in a temporary overlay that hides the base's rows. Whoever starts
makes a new base first if too much has become newer. A file that others have open stays as it is, without a name.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bulkfetch.durable import disk_errors, sync_directory
from bulkfetch.keys import STATE
from bulkfetch.manifest.catching_up import catch_up, find_unread
from bulkfetch.manifest.invoice_state import KEY_INDEX, SCHEMA, SCHEMA_VERSION
from bulkfetch.manifest.lock import taking_turns

LEDGER = "ledger.sqlite3"
_TURNS = "ledger.lock"

OUTDATED = 10
"""A base is renewed when more than one byte in so many of the manifests would be newer."""

_CACHE_KIB = 16 * 1024
# An unnamed database lives in a deleted file: it takes disk, not memory, and is gone when it is closed.
_TEMPORARY = ""


def open_file(path: Path) -> sqlite3.Connection:
    """The ledger in `path`, to be written; it is made if it is not there.

    Raises:
        sqlite3.DatabaseError: it is damaged, or has another version's layout.
    """
    connection = _connect(str(path))
    with _closing_on_error(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _lay_out(connection)
    return connection


def open_empty() -> sqlite3.Connection:
    """A temporary ledger that knows nothing."""
    connection = _connect(_TEMPORARY)
    with _closing_on_error(connection):
        _lay_out(connection)
    return connection


def open_copy(path: Path) -> sqlite3.Connection:
    """A temporary copy of the ledger in `path`, which is left as it is, side files included.

    Raises:
        sqlite3.DatabaseError: it is damaged, or has another version's layout.
    """
    # Even to read, SQLite creates its two side files where they are missing, unless it is told that nobody writes.
    quiet = "" if _side_file(path).exists() else "&immutable=1"
    connection = _connect(_TEMPORARY)
    with _closing_on_error(connection):
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{quiet}", uri=True)) as source:
            source.backup(connection)
        _lay_out(connection)
    return connection


def open_over(path: Path) -> sqlite3.Connection:
    """A temporary overlay over the ledger in `path`, which is left as it is, side files included. Others may write it
    meanwhile: `state_of` tells.

    Raises:
        sqlite3.DatabaseError: it is damaged, has another version's layout, or is being written.
    """
    return _attach(path, quiet=not _side_file(path).exists())


def state_of(path: Path) -> tuple[object, ...]:
    """What changes if somebody writes the ledger in `path` whose side file is not there: who has read it meanwhile may
    have met pages of two states. A side file keeps writers and readers apart."""
    if _side_file(path).exists():
        return ("written with care",)
    found = path.stat()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def open_overlay(root: Path, *, anew: bool = False) -> sqlite3.Connection:
    """A temporary overlay over the archive's base, which is renewed first if need be, or in any case if it is to be
    made `anew`. The processes that ask for it take turns.

    The caller shares the archive's lock: nobody writes into the file meanwhile.

    Raises:
        sqlite3.Error, OSError: the base cannot be made.
        FatalError: a manifest is damaged.
    """
    path = root / STATE / LEDGER
    with taking_turns(root / STATE / _TURNS):
        if not anew:
            try:
                if not _side_file(path).exists() and path.exists():
                    overlay = _attach(path)
                    with _closing_on_error(overlay):
                        unread = find_unread(root, overlay)
                    if not unread.shrunk and unread.new * OUTDATED <= unread.known:
                        return overlay
                    overlay.close()
            except sqlite3.DatabaseError:
                anew = True
        _make_base(root, path, anew=anew)
        return _attach(path)


def remove(path: Path) -> None:
    """Remove the ledger in `path`, if there is one."""
    for suffix in ("", "-wal", "-shm"):
        with disk_errors(f"remove {path}{suffix}"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)


def _make_base(root: Path, path: Path, *, anew: bool) -> None:
    """Put a ledger that is current under `path`: one that goes on from the old one, unless it is made `anew`."""
    part = path.with_name(f"{path.name}.part")
    remove(part)
    if not anew and path.exists():
        try:
            with closing(open_file(path)) as old, closing(_connect(str(part))) as new:
                old.backup(new)
        except sqlite3.DatabaseError:
            remove(part)
    with closing(_connect(str(part))) as new:
        # If this process dies, nobody looks at the part again.
        new.execute("PRAGMA journal_mode = OFF")
        new.execute("PRAGMA synchronous = OFF")
        _lay_out(new)
        catch_up(root, new)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    if _side_file(path).exists():
        remove(path)  # the side files must not meet the new ledger
    part.replace(path)
    sync_directory(path.parent)


def _attach(base: Path, *, quiet: bool = True) -> sqlite3.Connection:
    """An overlay over `base`; `quiet` says that nobody writes it."""
    overlay = _connect(_TEMPORARY)
    with _closing_on_error(overlay):
        _lay_out(overlay)
        overlay.execute(KEY_INDEX)
        overlay.execute("ATTACH ? AS base", (f"{base.absolute().as_uri()}?mode=ro{'&immutable=1' if quiet else ''}",))
        overlay.execute(f"PRAGMA base.cache_size = -{_CACHE_KIB}")
        _check_layout(overlay, "base")
    return overlay


def _connect(database: str) -> sqlite3.Connection:
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False, uri=True)
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def _lay_out(connection: sqlite3.Connection) -> None:
    if not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    _check_layout(connection, "main")


def _check_layout(connection: sqlite3.Connection, layer: str) -> None:
    (version,) = connection.execute(f"PRAGMA {layer}.user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError("another version of the ledger's layout")


def _side_file(path: Path) -> Path:
    """Where SQLite keeps what a writer has not moved into `path` yet."""
    return Path(f"{path}-wal")


@contextmanager
def _closing_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
