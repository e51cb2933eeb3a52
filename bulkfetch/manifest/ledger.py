"""What is stored, as an index of the manifests: a SQLite file that can be deleted at any time.

The manifests are the truth. The ledger holds one row per stored invoice, so that a run over millions knows in flat
memory what is stored, and how far it has read each manifest.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from bulkfetch.durable import disk_errors
from bulkfetch.keys import STATE
from bulkfetch.manifest.errors import sqlite_errors
from bulkfetch.manifest.lock import taking_turns
from bulkfetch.manifest.row_file import whole_size
from bulkfetch.manifest.rows import read_rows
from bulkfetch.manifest.runs import Run, list_runs
from bulkfetch.models import Entry, Outcome, Row

LEDGER = "ledger.sqlite3"
_LABEL = f"the ledger ({STATE}/{LEDGER})"
_TURNS = "ledger.lock"

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    invoice_id TEXT PRIMARY KEY, key TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manifests (run TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
"""
_KEY_INDEX = "CREATE INDEX IF NOT EXISTS entries_by_key ON entries (key)"
_CACHE_KIB = 16 * 1024
# An unnamed database lives in a deleted file: it takes disk, not memory, and is gone when it is closed.
_TEMPORARY = ""

T = TypeVar("T")


class LedgerIndex:
    """The index of one archive. Not for two threads at once."""

    def __init__(self, root: Path, database: str) -> None:
        self._root = root
        self._database = database
        self._connection = _connect(database)

    @classmethod
    def open(cls, root: Path) -> Self:
        """The archive's ledger, current with its manifests: read on where it ended, or built anew.

        Raises:
            FatalError: a manifest is damaged, or the ledger cannot be written.
        """
        database = str(root / STATE / LEDGER)
        with sqlite_errors(_LABEL):
            try:
                ledger = cls(root, database)
            except sqlite3.DatabaseError:
                _remove(database)
                ledger = cls(root, database)
            try:
                ledger._mending(ledger.catch_up)
            except BaseException:
                ledger.close()
                raise
        return ledger

    @classmethod
    def beside_others(cls, root: Path) -> Self:
        """A private copy of the index, for one of several processes at work on the archive. It is gone when it is
        closed.

        The archive's ledger is brought up to date first. The processes do this in turns.

        Raises:
            FatalError: a manifest is damaged, or the ledger cannot be written.
        """
        with taking_turns(root / STATE / _TURNS):
            cls.open(root).close()
            return cls.snapshot(root)

    @classmethod
    def snapshot(cls, root: Path) -> Self:
        """An index of what is stored at this moment, for reading only.

        Nothing in `root` is created, changed or locked. Where there is no archive, nothing is stored.

        Raises:
            FatalError: a manifest is damaged.
        """
        with sqlite_errors(_LABEL):
            ledger = cls(root, _TEMPORARY)
            try:
                if (root / STATE / LEDGER).exists():
                    ledger._copy(root / STATE / LEDGER)
                ledger._mending(ledger.catch_up)
            except BaseException:
                ledger.close()
                raise
        return ledger

    def stored(self, ids: Sequence[str]) -> dict[str, Entry]:
        """The entries of those of `ids` that are stored.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        if not self._select("SELECT 1 FROM entries LIMIT ?", 1):
            return {}
        query = """SELECT entries.invoice_id, entries.key, size, sha256
                   FROM json_each(?) AS wanted CROSS JOIN entries ON entries.invoice_id = wanted.value"""
        return {found[0]: Entry(*found[1:]) for found in self._select(query, msgspec.json.encode(ids).decode())}

    def owner(self, key: str) -> str | None:
        """The ID of the invoice that is stored under `key`, if there is one.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        found = self._select("SELECT invoice_id FROM entries WHERE key = ? LIMIT 1", key)
        return str(found[0][0]) if found else None

    def index(self, run: str, rows: Sequence[Row], end: int) -> None:
        """Take in `rows`, the new rows in the manifest of `run` up to its byte `end`: all of them or none.

        Raises:
            sqlite3.Error: none was taken in. The manifest is not touched.
        """
        with self._transaction():
            self._take(run, rows, end)

    def refresh(self) -> None:
        """Read what the manifests hold by now.

        Raises:
            FatalError: a manifest is damaged, or the ledger can neither be read nor be built anew.
        """
        with sqlite_errors(_LABEL):
            self._mending(self.catch_up)

    def catch_up(self) -> None:
        """Read what the manifests hold beyond what is indexed; a manifest that has become shorter or was removed makes
        the ledger start anew.

        Raises:
            FatalError: a manifest is damaged.
            sqlite3.Error: the ledger is.
        """
        with disk_errors(f"read the manifests in {self._root}"):
            # The index is read before the list of runs. Other processes write a manifest before they index it, so
            # every run that the index names is in the list.
            indexed: dict[str, int] = dict(self._connection.execute("SELECT run, bytes FROM manifests"))
            ends = {run.id: (run.manifest, _end(run)) for run in list_runs(self._root) if run.manifest}
            if any(run not in ends or ends[run][1] < size for run, size in indexed.items()):
                indexed = {}
            unread = [(run, manifest, indexed.get(run, 0), end) for run, (manifest, end) in ends.items()]
            unread = [part for part in unread if part[2] < part[3]]
            if not unread and indexed:
                return
            with self._transaction():
                if not indexed:
                    self._clear()
                for run, manifest, start, end in unread:
                    for rows, offset in read_rows(manifest, start, end):
                        self._take(run, rows, offset)
                self._connection.execute(_KEY_INDEX)

    def close(self) -> None:
        """Let the file go; a temporary one is gone."""
        self._connection.close()

    def _select(self, query: str, parameter: str | int) -> list[tuple[Any, ...]]:
        with sqlite_errors(_LABEL):
            return self._mending(lambda: self._connection.execute(query, (parameter,)).fetchall())

    def _mending(self, ask: Callable[[], T]) -> T:
        """What `ask` returns; if the database is damaged, it is built anew first."""
        try:
            return ask()
        except sqlite3.DatabaseError:
            self._connection.close()
            _remove(self._database)
            self._connection = _connect(self._database)
            self.catch_up()
            return ask()

    def _copy(self, path: Path) -> None:
        # Even to read, SQLite creates its two side files where they are missing, unless it is told that nobody writes.
        quiet = "" if Path(f"{path}-wal").exists() else "&immutable=1"
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{quiet}", uri=True)) as source:
                source.backup(self._connection)
            _check_schema(self._connection)
        except sqlite3.Error:
            self._connection.close()
            self._connection = _connect(_TEMPORARY)

    def _clear(self) -> None:
        """Empty the tables. The index by key is dropped, too: it is built faster after all rows are in."""
        self._connection.execute("DROP INDEX IF EXISTS entries_by_key")
        self._connection.execute("DELETE FROM entries")
        self._connection.execute("DELETE FROM manifests")

    def _take(self, run: str, rows: Sequence[Row], end: int) -> None:
        stored = [(row.invoice_id, row.key, row.size, row.sha256) for row in rows if row.outcome is Outcome.STORED]
        self._connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", stored)
        lost = [
            (row.invoice_id,) for row in rows if row.outcome is Outcome.FAILED and row.corrects is not msgspec.UNSET
        ]
        self._connection.executemany("DELETE FROM entries WHERE invoice_id = ?", lost)
        self._connection.execute("INSERT OR REPLACE INTO manifests VALUES (?, ?)", (run, end))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            yield


def _connect(database: str) -> sqlite3.Connection:
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION};")
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _SCHEMA_VERSION:
        raise sqlite3.DatabaseError("another version of the ledger's layout")


def _end(run: Run) -> int:
    """How far the manifest of `run` may be read. Without a summary the last line may be torn."""
    if run.manifest is None:
        return 0
    return run.manifest.stat().st_size if run.summary else whole_size(run.manifest)


def _remove(database: str) -> None:
    if database != _TEMPORARY:
        for suffix in ("", "-wal", "-shm"):
            with disk_errors(f"remove {database}{suffix}"):
                Path(f"{database}{suffix}").unlink(missing_ok=True)
