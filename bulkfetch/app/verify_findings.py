"""What a verification finds, kept in a temporary file, so that a million findings take no memory."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Self

import msgspec

from bulkfetch.text import printable

_AT_ONCE = 500


class Kind(StrEnum):
    """What can be found. All but the last two are errors."""

    MISSING = "missing"
    DAMAGED = "damaged"
    EXTRA = "extra"
    CHAIN = "chain"
    NOT_STORED = "not_stored"
    SUPERSEDED = "superseded"
    MEETING = "meeting"


ERRORS = frozenset(Kind) - {Kind.SUPERSEDED, Kind.MEETING}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is found. `key` is that of an object, or the file of a manifest or summary (`chain`); empty where
    an invoice has none (`not_stored`).

    `size` (bytes) and `sha256` (hex) are what the manifests say, `found_size` and `found_sha256` what is there. `line`
    is the line of a list, `set_aside` says that an extra was moved to quarantine.
    """

    finding: Kind
    key: str
    message: str
    invoice_id: str | None = None
    line: int | None = None
    size: int | None = None
    sha256: str | None = None
    found_size: int | None = None
    found_sha256: str | None = None
    set_aside: bool = False


class Findings:
    """The findings of one verification, in the order in which they came. Blocks; not for two threads at once.

    Mutable: `counts`, how many there are of each kind.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.counts = Counter[Kind]()

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        """None yet; the file is gone at the end of the block."""
        connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            connection.execute("CREATE TABLE findings (number INTEGER PRIMARY KEY, kind TEXT, key TEXT, body BLOB)")
            connection.execute("CREATE INDEX by_key ON findings (kind, key)")
            yield cls(connection)
        finally:
            connection.close()

    def add(self, found: Collection[Finding]) -> None:
        """Take in `found`."""
        self.counts.update(finding.finding for finding in found)
        rows = ((finding.finding, writable(finding.key), _encoded(finding)) for finding in found)
        self._connection.execute("BEGIN")
        with self._connection:
            self._connection.executemany("INSERT INTO findings (kind, key, body) VALUES (?, ?, ?)", rows)

    def pages(self, *kinds: Kind) -> Iterator[Sequence[tuple[int, Finding]]]:
        """The findings of `kinds`, or all, with their numbers, by page. The page in hand may be replaced meanwhile."""
        wanted = msgspec.json.encode(kinds or tuple(Kind)).decode()
        after = 0
        while page := self._connection.execute(
            """SELECT number, body FROM findings
               WHERE number > ? AND kind IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT ?""",
            (after, wanted, _AT_ONCE),
        ).fetchall():
            yield [(number, msgspec.json.decode(body, type=Finding)) for number, body in page]
            after = page[-1][0]

    def extras(self, keys: Collection[str]) -> list[tuple[int, Finding]]:
        """The extras under `keys`."""
        found = self._connection.execute(
            """SELECT findings.number, findings.body FROM json_each(?) AS wanted
               CROSS JOIN findings ON findings.kind = 'extra' AND findings.key = wanted.value""",
            (msgspec.json.encode([*keys]).decode(),),
        )
        return [(number, msgspec.json.decode(body, type=Finding)) for number, body in found]

    def replace(self, old: Sequence[tuple[int, Finding]], new: Sequence[Finding | None]) -> None:
        """Put each of `new` in the place of one of `old`; None takes it out."""
        self._connection.execute("BEGIN")
        with self._connection:
            for (number, before), after in zip(old, new, strict=True):
                self.counts[before.finding] -= 1
                if after is None:
                    self._connection.execute("DELETE FROM findings WHERE number = ?", (number,))
                    continue
                self.counts[after.finding] += 1
                self._connection.execute(
                    "UPDATE findings SET kind = ?, key = ?, body = ? WHERE number = ?",
                    (after.finding, writable(after.key), _encoded(after), number),
                )


def writable(key: str) -> str:
    """`key` itself, or what can be written of one whose bytes are no UTF-8."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return printable(key, limit=4096)
    return key


def _encoded(finding: Finding) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(finding, key=writable(finding.key)))
