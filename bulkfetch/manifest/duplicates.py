"""Which rows of one run's input repeat an invoice ID: remembered on disk, in flat memory."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bulkfetch.durable import disk_errors
from bulkfetch.manifest.errors import sqlite_errors

_LABEL = "the list of the invoice IDs seen in this run"
_CACHE_KIB = 8 * 1024


class SeenIds:
    """The IDs that one run has seen so far. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        """Keep them in `path`, whose name is taken away at once: nothing is left behind, however the process ends."""
        with sqlite_errors(_LABEL), disk_errors(f"create {path}"):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.executescript(
                f"""PRAGMA cache_size = -{_CACHE_KIB};
                    PRAGMA journal_mode = OFF;
                    PRAGMA synchronous = OFF;
                    PRAGMA locking_mode = EXCLUSIVE;
                    CREATE TABLE seen (invoice_id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID;"""
            )
            path.unlink()

    def find_repeats(self, rows: Sequence[tuple[str, int | None]]) -> dict[int, int | None]:
        """Remember `rows`, pairs of invoice ID and line. For each that repeats an ID of an earlier row, of this call or
        one before: its index in `rows`, and the line where the ID came first (None where the source has no lines).

        Raises:
            FatalError: the disk failed.
        """
        first: dict[str, int | None] = {}
        for invoice_id, line in rows:
            first.setdefault(invoice_id, line)
        with sqlite_errors(_LABEL):
            before = dict(
                self._connection.execute(
                    """SELECT seen.invoice_id, line
                       FROM json_each(?) AS asked CROSS JOIN seen ON seen.invoice_id = asked.value""",
                    (msgspec.json.encode(list(first)).decode(),),
                )
            )
            new = sorted(row for row in first.items() if row[0] not in before) if before else sorted(first.items())
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT INTO seen VALUES (?, ?)", new)
            self._connection.execute("COMMIT")
        repeated: dict[int, int | None] = {}
        met = set(before)
        for index, (invoice_id, _) in enumerate(rows):
            if invoice_id in met:
                repeated[index] = before[invoice_id] if invoice_id in before else first[invoice_id]
            met.add(invoice_id)
        return repeated

    def close(self) -> None:
        """Forget them all."""
        self._connection.close()
