"""What a ledger says of a whole archive, in numbers and a few examples: questions for `LedgerIndex.ask`."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from bulkfetch.manifest.catching_up import layers
from bulkfetch.manifest.unresolved import CURRENT, accepted_rejects, current_rejects, rejects_of

EXAMPLES = 3
"""How many invoices are named of each kind."""

# The first condition is that of the partial index, word for word, or SQLite does not use it.
_OPEN = "state <> 'stored' AND accepted_reason IS NULL"
_OF_RUNS = (
    "(?1 IS NULL OR run IN (SELECT value FROM json_each(?1)) OR first_failed_run IN (SELECT value FROM json_each(?1)))"
)
_COUNT = """
SELECT reason, retryable, count(*), min(first_failed_at) FROM {layer}.invoices AS invoices
WHERE {open} AND {current} {of_runs} GROUP BY reason, retryable
"""
_FIRST = """
SELECT invoice_id FROM {layer}.invoices AS invoices
WHERE {open} AND reason = ?2 AND retryable = ?3 AND {current} {of_runs}
ORDER BY invoice_id LIMIT {examples}
"""
_STORED = "SELECT count(*) FROM {layer}.invoices AS invoices WHERE state = 'stored' AND {current}"
_GAPS = "FROM {layer}.invoices AS invoices WHERE accepted_reason IS NOT NULL AND state IS NOT 'stored' AND {current}"


class UnresolvedReason(msgspec.Struct, frozen=True):
    """The invoices that are unresolved for one reason: how many, since when the oldest is (UTC ISO 8601), and the IDs
    of a few."""

    reason: str
    retryable: bool
    invoices: int
    since: str
    examples: list[str]


class RejectedRows(msgspec.Struct, frozen=True):
    """How many rows of `source` name no usable invoice, for one reason, by `run`, the newest that read all of it."""

    source: str
    run: str
    reason: str
    rows: int


class Gap(msgspec.Struct, frozen=True):
    """An invoice that somebody has accepted as one that will not come, why, and when (UTC ISO 8601)."""

    invoice_id: str
    reason: str
    at: str


class AcceptedGaps(msgspec.Struct, frozen=True):
    """The accepted gaps: how many, the newest few, and how many rejected rows are accepted."""

    invoices: int
    examples: list[Gap]
    rejected: int


def count_stored(connection: sqlite3.Connection) -> int:
    """How many invoices are stored."""
    return sum(
        connection.execute(_STORED.format(layer=layer, current=CURRENT[layer])).fetchone()[0]
        for layer in layers(connection)
    )


def unresolved_reasons(connection: sqlite3.Connection, runs: Collection[str] | None) -> list[UnresolvedReason]:
    """What is unresolved, by reason, the oldest first. With `runs`, only the invoices whose first or newest failure is
    a row of one of them."""
    chosen = None if runs is None else msgspec.json.encode(sorted(runs)).decode()
    of_runs = "" if runs is None else f"AND {_OF_RUNS}"
    counts: dict[tuple[str, int], tuple[int, str]] = {}
    for layer in layers(connection):
        query = _COUNT.format(layer=layer, open=_OPEN, current=CURRENT[layer], of_runs=of_runs)
        for reason, retryable, invoices, since in connection.execute(query, (chosen,) if chosen else ()):
            known, oldest = counts.get((reason, retryable), (0, since))
            counts[reason, retryable] = known + invoices, min(since, oldest)
    found = [
        UnresolvedReason(
            reason, bool(retryable), invoices, since, _first(connection, reason, retryable, chosen, of_runs)
        )
        for (reason, retryable), (invoices, since) in counts.items()
    ]
    return sorted(found, key=lambda each: (each.since, each.reason, each.retryable))


def _first(connection: sqlite3.Connection, reason: str, retryable: int, chosen: str | None, of_runs: str) -> list[str]:
    found: list[str] = []
    for layer in layers(connection):
        query = _FIRST.format(layer=layer, open=_OPEN, current=CURRENT[layer], of_runs=of_runs, examples=EXAMPLES)
        found += [invoice_id for (invoice_id,) in connection.execute(query, (chosen, reason, retryable))]
    return sorted(found)[:EXAMPLES]


def rejected_rows(connection: sqlite3.Connection, source: str | None) -> list[RejectedRows]:
    """The rejected rows that count, by source and reason; with `source`, only those of that one."""
    counts = Counter(
        (reject.source, reject.run, reject.reason)
        for reject in current_rejects(connection)
        if source is None or reject.source == source
    )
    return [RejectedRows(*key, rows) for key, rows in sorted(counts.items())]


def accepted_gaps(connection: sqlite3.Connection) -> AcceptedGaps:
    """The invoices that are accepted as gaps, and are not stored; and the rejected rows that would count otherwise."""
    count, newest = 0, list[Gap]()
    for layer in layers(connection):
        gaps = _GAPS.format(layer=layer, current=CURRENT[layer])
        count += connection.execute(f"SELECT count(*) {gaps}").fetchone()[0]
        query = f"SELECT invoice_id, accepted_reason, flag_at {gaps} ORDER BY flag_at DESC, invoice_id LIMIT {EXAMPLES}"
        newest += [Gap(*row) for row in connection.execute(query)]
    newest.sort(key=lambda gap: gap.invoice_id)
    newest.sort(key=lambda gap: gap.at, reverse=True)
    rejected = sum(1 for run in accepted_rejects(connection) for _ in rejects_of(connection, run))
    return AcceptedGaps(count, newest[:EXAMPLES], rejected)


def known_ids(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that a row has ever told something of, or a person."""
    wanted = msgspec.json.encode(ids).decode()
    return {
        invoice_id
        for layer in layers(connection)
        for (invoice_id,) in connection.execute(
            f"""SELECT invoices.invoice_id FROM json_each(?) AS wanted
                CROSS JOIN {layer}.invoices AS invoices ON invoices.invoice_id = wanted.value""",  # noqa: S608 - as below
            (wanted,),
        )
    }
