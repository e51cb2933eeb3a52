"""What all rows say of every invoice, folded from the manifests alone: for whoever trusts no index.

A line that is no row is told and left out; the other rows count.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Self

import msgspec

from bulkfetch.durable import disk_errors
from bulkfetch.keys import MANIFESTS, fold
from bulkfetch.manifest.catching_up import find_unread, take_in, transaction
from bulkfetch.manifest.chain_check import Problem
from bulkfetch.manifest.errors import sqlite_errors
from bulkfetch.manifest.invoice_state import KEY_INDEX
from bulkfetch.manifest.ledger_file import open_empty
from bulkfetch.manifest.rows import decode_row, read_whole_rows
from bulkfetch.manifest.runs import list_runs
from bulkfetch.models import Outcome, Row

PAGE = 1000

_LABEL = "the index of what the manifests say"
_COLUMNS = "invoices.invoice_id, invoices.key, size, sha256"
_PAGE = f"""
SELECT {_COLUMNS} FROM invoices WHERE state = 'stored' AND (key, invoice_id) > (?, ?)
ORDER BY key, invoice_id LIMIT {PAGE}
"""  # noqa: S608 - fixed names
_STORED = f"""
SELECT {_COLUMNS} FROM json_each(?) AS wanted
CROSS JOIN invoices ON invoices.invoice_id = wanted.value WHERE state = 'stored'
"""  # noqa: S608 - fixed names
_UNDER = f"""
SELECT {_COLUMNS} FROM json_each(?) AS wanted CROSS JOIN invoices ON invoices.key = wanted.value WHERE state = 'stored'
"""  # noqa: S608 - fixed names
_OTHERS = """
SELECT invoices.invoice_id, coalesce(state, 'unknown'), reason, accepted_reason FROM json_each(?) AS wanted
CROSS JOIN invoices ON invoices.invoice_id = wanted.value WHERE state IS NOT 'stored'
"""
_PLACES = "SELECT run, offset, invoice_id, accepted_reason FROM invoices ORDER BY run, offset, invoice_id"
_MEETING = """
SELECT group_concat(key, char(10)) FROM
    (SELECT key, fold(key) AS folded FROM invoices WHERE state = 'stored' ORDER BY folded, key)
GROUP BY folded HAVING count(*) > 1
"""


class Stored(msgspec.Struct, frozen=True):
    """An invoice that is stored by its rows: where its object is, and what it holds (bytes, SHA-256 in hex)."""

    invoice_id: str
    key: str
    size: int
    sha256: str


class Unstored(msgspec.Struct, frozen=True):
    """An invoice that is known and not stored: its state, the reason, and why it was accepted as a gap, if it was."""

    invoice_id: str
    state: str
    reason: str | None
    accepted: str | None


class InvoiceStates:
    """The states of the invoices of an archive, in a temporary database. Blocks; not for two threads at once."""

    def __init__(self, root: Path, connection: sqlite3.Connection, damaged: Callable[[Problem], None]) -> None:
        self._root = root
        self._connection = connection
        self._told = set[Problem]()
        self._damaged = damaged

    @classmethod
    @contextmanager
    def open(cls, root: Path, damaged: Callable[[Problem], None]) -> Iterator[Self]:
        """Read all manifests in `root`. Each line that is no row is told to `damaged`, once.

        Raises:
            FatalError: a manifest cannot be read.
            UsageError: a newer bulkfetch wrote one.
        """
        with sqlite_errors(_LABEL):
            connection = open_empty()
            try:
                connection.create_function("fold", 1, fold, deterministic=True)
                states = cls(root, connection, damaged)
                states.refresh()
                yield states
            finally:
                connection.close()

    def refresh(self) -> None:
        """Read what was added meanwhile.

        Raises:
            FatalError, UsageError: as `open`.
        """
        with (
            sqlite_errors(_LABEL),
            disk_errors(f"read the manifests in {self._root}"),
            transaction(self._connection),
        ):
            for run, manifest, start, end in find_unread(self._root, self._connection).parts:
                for rows, lines, offset in self._whole_rows(manifest, start, end):
                    take_in(self._connection, run, rows, lines, offset - len(lines))
            self._connection.execute(KEY_INDEX)

    def stored(self) -> Iterator[Sequence[Stored]]:
        """The invoices that are stored, by page, in the order of their keys."""
        after = ("", "")
        while page := self._select(_PAGE, *after):
            yield page
            after = (page[-1].key, page[-1].invoice_id)

    def count(self) -> tuple[int, int]:
        """How many invoices are stored, and how many bytes they have."""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM invoices WHERE state = 'stored'"
        with sqlite_errors(_LABEL):
            objects, size = self._connection.execute(query).fetchone()
        return objects, size

    def find(self, ids: Collection[str]) -> dict[str, Stored]:
        """Those of `ids` that are stored."""
        return {found.invoice_id: found for found in self._select(_STORED, _json(ids))}

    def under(self, keys: Collection[str]) -> dict[str, Stored]:
        """The invoices whose objects are under `keys`, by key."""
        return {found.key: found for found in self._select(_UNDER, _json(keys))}

    def others(self, ids: Collection[str]) -> dict[str, Unstored]:
        """Those of `ids` that are known and not stored."""
        with sqlite_errors(_LABEL):
            found = self._connection.execute(_OTHERS, (_json(ids),)).fetchall()
        return {row[0]: Unstored(*row) for row in found}

    def meeting(self) -> Iterator[list[str]]:
        """The keys that would be one name on a disk that is blind to case and normal form, by name."""
        with sqlite_errors(_LABEL):
            for (keys,) in self._connection.execute(_MEETING):
                yield keys.split("\n")

    def ever_stored(self) -> Iterator[Sequence[Row]]:
        """Every row `stored` of every run, by block, those included that do not count any more. Reads all manifests."""
        for path in (run.manifest for run in list_runs(self._root) if run.manifest):
            with disk_errors(f"read {path}"):
                for rows, _, _ in self._whole_rows(path, 0, path.stat().st_size):
                    yield [row for row in rows if row.outcome is Outcome.STORED]

    def rows(self) -> Iterator[tuple[Row | None, str, str | None]]:
        """For each invoice the row that counts, its ID, and why it was accepted as a gap, if it was; in the order of
        runs and rows. Of one that no run has tried there is no row."""
        with sqlite_errors(_LABEL):
            placed = self._connection.execute(_PLACES)
            for run, places in groupby(placed, key=itemgetter(0)):
                if not run:
                    yield from ((None, invoice_id, accepted) for _, _, invoice_id, accepted in places)
                    continue
                path = self._root / MANIFESTS / f"{run}.jsonl"
                with disk_errors(f"read {path}"), path.open("rb") as file:
                    for _, offset, invoice_id, accepted in places:
                        file.seek(offset)
                        yield decode_row(file.readline()), invoice_id, accepted

    def _select(self, query: str, *parameters: str) -> list[Stored]:
        with sqlite_errors(_LABEL):
            return [Stored(*row) for row in self._connection.execute(query, parameters)]

    def _whole_rows(self, path: Path, start: int, end: int) -> Iterator[tuple[list[Row], bytes, int]]:
        def tell(line: int) -> None:
            problem = Problem(f"{MANIFESTS}/{path.name}", f"line {line:,} is not a whole row")
            if problem not in self._told:
                self._told.add(problem)
                self._damaged(problem)

        return read_whole_rows(path, start, end, tell)


def _json(values: Collection[str]) -> str:
    return msgspec.json.encode([*values]).decode()
