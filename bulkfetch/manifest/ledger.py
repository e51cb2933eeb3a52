"""What became of every invoice, as an index of the manifests: a SQLite file that can be deleted at any time.

The manifests are the truth. The ledger holds one row per invoice, so that a run over millions knows in flat memory what
is stored, and how far it has read each manifest.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from bulkfetch.durable import disk_errors
from bulkfetch.keys import STATE
from bulkfetch.manifest.catching_up import catch_up, layers, take_in, transaction
from bulkfetch.manifest.errors import sqlite_errors
from bulkfetch.manifest.ledger_file import (
    LEDGER,
    open_copy,
    open_empty,
    open_file,
    open_over,
    open_overlay,
    remove,
    state_of,
)
from bulkfetch.manifest.unresolved import (
    CURRENT,
    Reject,
    Unresolved,
    UnresolvedCount,
    count_unresolved,
    current_rejects,
    unresolved,
)
from bulkfetch.models import Entry, Row

_LABEL = f"the ledger ({STATE}/{LEDGER})"

# One row with everything: between two rows the interpreter lock changes hands, which costs more than a row does.
_STORED = """
SELECT json_group_array(json_array(invoices.invoice_id, invoices.key, size, sha256)) FROM json_each(?1) AS wanted
CROSS JOIN {layer}.invoices AS invoices ON invoices.invoice_id = wanted.value
WHERE state = 'stored' AND {current}
"""
_ACCEPTED = """
SELECT invoices.invoice_id, accepted_reason FROM json_each(?1) AS wanted
CROSS JOIN {layer}.invoices AS invoices ON invoices.invoice_id = wanted.value
WHERE accepted_reason IS NOT NULL AND state IS NOT 'stored' AND {current}
"""
_REFUSED = """
SELECT sha256 FROM {layer}.invoices AS invoices
WHERE invoice_id = ?1 AND state = 'failed' AND sha256 IS NOT NULL AND {current}
"""
_OWNER = "SELECT invoice_id FROM {layer}.invoices AS invoices WHERE key = ?1 AND state = 'stored' AND {current}"

_decode_stored = msgspec.json.Decoder(list[tuple[str, str, int, str]]).decode

T = TypeVar("T")
Found = list[tuple[Any, ...]]


class LedgerIndex:
    """The index of one archive. Not for two threads at once.

    Mutable: `_connection`, which is made anew by `anew` if its database turns out to be damaged.
    """

    def __init__(self, root: Path, connection: sqlite3.Connection, anew: Callable[[], sqlite3.Connection]) -> None:
        self._root = root
        self._connection = connection
        self._anew = anew

    @classmethod
    def open(cls, root: Path) -> Self:
        """The archive's ledger, current with its manifests: read on where it ended, or built anew.

        The caller has the archive to itself.

        Raises:
            FatalError: a manifest is damaged, or the ledger cannot be written.
        """
        path = root / STATE / LEDGER

        def anew() -> sqlite3.Connection:
            remove(path)
            return open_file(path)

        return cls._open(root, partial(open_file, path), anew)

    @classmethod
    def beside_others(cls, root: Path) -> Self:
        """The ledger as one of several processes at work on the archive has it: a base that they share, and an overlay
        of its own that is gone when it is closed.

        The caller shares the archive with others of its kind only.

        Raises:
            FatalError: a manifest is damaged, or the base cannot be written.
        """
        with disk_errors(f"write the ledger in {root / STATE}"):
            return cls._open(root, partial(open_overlay, root), partial(open_overlay, root, anew=True))

    @classmethod
    def snapshot(cls, root: Path) -> Self:
        """An index of what is stored at this moment, for reading only.

        Nothing in `root` is created, changed or locked. Where there is no archive, nothing is stored.

        Raises:
            FatalError: a manifest is damaged.
        """
        path = root / STATE / LEDGER
        return cls._open(root, partial(open_copy, path) if path.exists() else open_empty, open_empty)

    @classmethod
    def glance(cls, root: Path, question: Callable[[Self], T]) -> T:
        """What `question` finds in an index of what is stored at this moment. As `snapshot`, but the ledger is not
        copied, so this is for what is quickly asked. It is asked once more if somebody wrote the ledger meanwhile.

        Raises:
            FatalError: a manifest is damaged.
        """
        path = root / STATE / LEDGER
        if path.exists():
            with disk_errors(f"look at {path}"):
                before = state_of(path)
                with closing(cls._open(root, partial(open_over, path), open_empty)) as ledger:
                    answer = question(ledger)
                if state_of(path) == before:
                    return answer
        with closing(cls.snapshot(root)) as ledger:
            return question(ledger)

    def stored(self, ids: Sequence[str]) -> dict[str, Entry]:
        """The entries of those of `ids` that are stored.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        if not self._select("SELECT 1 FROM {layer}.invoices LIMIT 1"):
            return {}
        # In the order of the table, so that each of its pages is read once.
        wanted = msgspec.json.encode(sorted(ids)).decode()
        entries: dict[str, Entry] = {}
        for (found,) in self._select(_STORED, wanted):
            for invoice_id, key, size, sha256 in _decode_stored(found):
                entries[invoice_id] = Entry(key, size, sha256)
        return entries

    def accepted(self, ids: Sequence[str]) -> dict[str, str]:
        """Those of `ids` that are accepted as gaps, each with the reason that was given. What is stored is no gap.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        if not self._select("SELECT 1 FROM {layer}.invoices WHERE accepted_reason IS NOT NULL LIMIT 1"):
            return {}
        return dict(self._select(_ACCEPTED, msgspec.json.encode(ids).decode()))

    def refused(self, invoice_id: str) -> str | None:
        """The SHA-256 of the bytes that were refused when the invoice last failed.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        found = self._select(_REFUSED, invoice_id)
        return str(found[0][0]) if found else None

    def owner(self, key: str) -> str | None:
        """The ID of the invoice that is stored under `key`, if there is one.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        found = self._select(_OWNER, key)
        return str(found[0][0]) if found else None

    def unresolved(self) -> Iterator[Unresolved]:
        """The invoices that are not stored and not accepted as gaps, ordered by reason, in flat memory.

        Raises:
            FatalError: the ledger cannot be read.
        """
        with sqlite_errors(_LABEL):
            yield from unresolved(self._connection)

    def count_unresolved(self) -> list[UnresolvedCount]:
        """How many invoices are unresolved for which reason, and since when; the oldest reason first.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        return self.ask(count_unresolved)

    def rejects(self) -> Iterator[Reject]:
        """The rejected rows that count: of each file those of the newest run that read it to its end.

        Raises:
            FatalError: the ledger cannot be read.
        """
        with sqlite_errors(_LABEL):
            yield from current_rejects(self._connection)

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """What `question` finds in the ledger's database, which it only reads.

        Raises:
            FatalError: the ledger can neither be read nor be built anew.
        """
        with sqlite_errors(_LABEL):
            return self._mending(lambda: question(self._connection))

    def index(self, run: str, rows: Sequence[Row], lines: bytes, start: int) -> None:
        """Take in `rows`, which were written into the manifest of `run` as `lines`, from its byte `start` on: all of
        them or none.

        Raises:
            sqlite3.Error: none was taken in. The manifest is not touched.
        """
        with transaction(self._connection):
            take_in(self._connection, run, rows, lines, start)

    def refresh(self) -> None:
        """Read what the manifests hold by now; the ledger starts anew if a manifest has become shorter or is gone.

        Raises:
            FatalError: a manifest is damaged, or the ledger can neither be read nor be built anew.
        """
        with sqlite_errors(_LABEL):
            self._mending(lambda: catch_up(self._root, self._connection))

    def close(self) -> None:
        """Let the file go; a temporary one is gone."""
        self._connection.close()

    @classmethod
    def _open(
        cls, root: Path, connect: Callable[[], sqlite3.Connection], anew: Callable[[], sqlite3.Connection]
    ) -> Self:
        with sqlite_errors(_LABEL):
            try:
                connection = connect()
            except sqlite3.DatabaseError:
                connection = anew()
        ledger = cls(root, connection, anew)
        try:
            ledger.refresh()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _select(self, query: str, *parameters: str) -> Found:
        """What `query` finds in all layers of the ledger."""

        def ask() -> Found:
            found: Found = []
            for layer in layers(self._connection):
                found += self._connection.execute(query.format(layer=layer, current=CURRENT[layer]), parameters)
            return found

        with sqlite_errors(_LABEL):
            return self._mending(ask)

    def _mending(self, ask: Callable[[], T]) -> T:
        """What `ask` returns; if the database is damaged, it is built anew first."""
        try:
            return ask()
        except sqlite3.DatabaseError:
            self._connection.close()
            self._connection = self._anew()
            catch_up(self._root, self._connection)
            return ask()
