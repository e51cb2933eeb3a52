"""Which rows of one run's input repeat an invoice ID: remembered on disk, in flat memory.

Nearly every ID is new, so a bit per hash of an ID says of most that they are. The bit that is set says nothing yet: an
ID counts as met only if it is found itself, among the last ones or on disk.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bulkfetch.durable import disk_errors
from bulkfetch.manifest.errors import sqlite_errors

_LABEL = "the list of the invoice IDs seen in this run"
_CACHE_KIB = 8 * 1024
_FILTER_BITS = 1 << 25
_GATHERED = 1 << 14


class SeenIds:
    """The IDs that one run has met so far. Not for two threads at once.

    Mutable: `_bits`, the filter; `_gathered`, the IDs that are not on disk yet, with the lines where they came first.
    """

    def __init__(self, path: Path) -> None:
        """Keep them in `path`, whose name is taken away at once: nothing is left behind, however the process ends."""
        self._bits = bytearray(_FILTER_BITS // 8)
        self._gathered: dict[str, int | None] = {}
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
        first = dict(rows)
        if len(first) < len(rows):
            first = dict(reversed(rows))
        before = self._met(self._marked(first)) if first else {}
        if before:
            for invoice_id in before:
                del first[invoice_id]
        self._gathered.update(first)
        if len(self._gathered) >= _GATHERED:
            self._write()
        if not before and len(first) == len(rows):
            return {}
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

    def _marked(self, ids: Iterable[str]) -> list[str]:
        """Mark `ids` in the filter; those among them that may have been marked before."""
        bits, last, marked = self._bits, _FILTER_BITS - 1, []
        for invoice_id in ids:
            place = hash(invoice_id) & last
            byte, bit = place >> 3, 1 << (place & 7)
            if bits[byte] & bit:
                marked.append(invoice_id)
            else:
                bits[byte] |= bit
        return marked

    def _met(self, ids: Sequence[str]) -> dict[str, int | None]:
        """Those of `ids` that were met before, with the lines where they came first."""
        met = {invoice_id: self._gathered[invoice_id] for invoice_id in ids if invoice_id in self._gathered}
        asked = [invoice_id for invoice_id in ids if invoice_id not in met]
        if asked:
            with sqlite_errors(_LABEL):
                met.update(
                    self._connection.execute(
                        """SELECT seen.invoice_id, line
                           FROM json_each(?) AS asked CROSS JOIN seen ON seen.invoice_id = asked.value""",
                        (msgspec.json.encode(asked).decode(),),
                    )
                )
        return met

    def _write(self) -> None:
        """Put what was gathered on disk: in order, so that IDs that lie together are written together."""
        with sqlite_errors(_LABEL):
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT INTO seen VALUES (?, ?)", sorted(self._gathered.items()))
            self._connection.execute("COMMIT")
        self._gathered.clear()
