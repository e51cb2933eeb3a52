"""What is not in the archive and should be, read from a ledger: failures that nobody accepted, and rejected rows."""

import sqlite3
from collections.abc import Iterator

import msgspec

from bulkfetch.manifest.catching_up import layers, newest_ended

PAGE = 1000

CURRENT = {
    "main": "TRUE",
    "base": "NOT EXISTS (SELECT 1 FROM main.invoices AS newer WHERE newer.invoice_id = invoices.invoice_id)",
}
"""For each layer of a ledger, what says in SQL that no newer layer hides a row of its `invoices`."""

# The first condition is that of the partial index, word for word, or SQLite does not use it.
_OPEN = "state <> 'stored' AND accepted_reason IS NULL"
_PAGE = """
SELECT invoice_id, state, reason, retryable, key, run, offset, at, first_failed_at FROM {layer}.invoices AS invoices
WHERE {open} AND (reason, retryable, invoice_id) > (?, ?, ?) AND {current}
ORDER BY reason, retryable, invoice_id LIMIT {page}
"""
_COUNT = """
SELECT reason, retryable, count(*), min(first_failed_at) FROM {layer}.invoices AS invoices
WHERE {open} AND {current} GROUP BY reason, retryable
"""


class Unresolved(msgspec.Struct, frozen=True):
    """An invoice that is not stored, and is not accepted as a gap.

    `state` is `failed` or `rejected`; `reason`, `retryable`, `key` and `at` (UTC ISO 8601) are those of the row that
    counts, which begins at byte `offset` of the manifest of `run`. `first_failed_at` is the oldest failure.
    """

    invoice_id: str
    state: str
    reason: str
    retryable: bool
    key: str | None
    run: str
    offset: int
    at: str
    first_failed_at: str


class UnresolvedCount(msgspec.Struct, frozen=True):
    """How many invoices are unresolved for one reason, and since when the oldest is (UTC ISO 8601)."""

    reason: str
    retryable: bool
    invoices: int
    first_failed_at: str


class Reject(msgspec.Struct, frozen=True):
    """A row of `source` that names no usable invoice: it was rejected by `run`, the newest that read the whole source.

    `raw` is the row as the manifest shows it, `line` its line in the source.
    """

    source: str
    run: str
    line: int | None
    raw: str
    reason: str


def unresolved(connection: sqlite3.Connection) -> Iterator[Unresolved]:
    """The unresolved invoices, ordered by reason, in flat memory. The ledger may change meanwhile.

    Raises:
        sqlite3.Error: the ledger cannot be read.
    """
    for layer in layers(connection):
        query = _PAGE.format(layer=layer, open=_OPEN, current=CURRENT[layer], page=PAGE)
        after = ("", -1, "")
        while page := connection.execute(query, after).fetchall():
            for invoice_id, state, reason, retryable, *row in page:
                yield Unresolved(invoice_id, state, reason, bool(retryable), *row)
            after = (reason, retryable, invoice_id)


def count_unresolved(connection: sqlite3.Connection) -> list[UnresolvedCount]:
    """How many invoices are unresolved for which reason, the oldest first.

    Raises:
        sqlite3.Error: the ledger cannot be read.
    """
    counts: dict[tuple[str, bool], UnresolvedCount] = {}
    for layer in layers(connection):
        for reason, retryable, invoices, since in connection.execute(
            _COUNT.format(layer=layer, open=_OPEN, current=CURRENT[layer])
        ):
            found = UnresolvedCount(reason, bool(retryable), invoices, since)
            if other := counts.get((reason, found.retryable)):
                since = min(since, other.first_failed_at)
                found = UnresolvedCount(reason, found.retryable, invoices + other.invoices, since)
            counts[reason, found.retryable] = found
    return sorted(counts.values(), key=lambda count: (count.first_failed_at, count.reason, count.retryable))


def current_rejects(connection: sqlite3.Connection) -> Iterator[Reject]:
    """The rejected rows that count: of each file those of the newest run that read it to its end, unless somebody has
    accepted them.

    Raises:
        sqlite3.Error: the ledger cannot be read.
    """
    accepted = accepted_rejects(connection)
    for run in newest_ended(connection):
        if run not in accepted:
            yield from rejects_of(connection, run)


def rejects_of(connection: sqlite3.Connection, run: str) -> Iterator[Reject]:
    """The rows that `run` rejected, accepted or not; none where it is not the newest that read its file to the end.

    Raises:
        sqlite3.Error: the ledger cannot be read.
    """
    source = newest_ended(connection).get(run)
    for layer in layers(connection) if source else ():
        query = f"SELECT run, line, raw, reason FROM {layer}.rejects WHERE run = ?"  # noqa: S608 - a fixed name
        yield from (Reject(source or "", *row) for row in connection.execute(query, (run,)))


def accepted_rejects(connection: sqlite3.Connection) -> dict[str, str]:
    """The runs whose rejected rows are accepted, each with the reason that was given.

    Raises:
        sqlite3.Error: the ledger cannot be read.
    """
    flags: dict[str, tuple[str, str | None]] = {}
    for layer in layers(connection):
        query = f"SELECT run, flag_at, accepted_reason FROM {layer}.reject_flags"  # noqa: S608 - a fixed name
        for run, flag_at, reason in connection.execute(query):
            flags[run] = max(flags.get(run, ("", None)), (flag_at, reason), key=lambda flag: flag[0])
    return {run: reason for run, (_, reason) in flags.items() if reason is not None}
