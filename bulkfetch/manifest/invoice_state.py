"""The state of an invoice: what all rows of all manifests say of it together, folded into one row of the ledger.

The fold takes maxima and minima only. So it does not matter in which order the manifests are read, in how many parts,
or whether a part is read twice: the same rows always give the same ledger.

* The vote that counts is the highest of (rank, finished_at, run, offset). A `stored` row has rank 2, a `failed` one 1,
  and so has a `rejected` one whose input row could be read: its key cannot be made. A correction has the rank of the
  `stored` row whose place it takes, and it is never older. So it wins over that row, and over what that row had won
  over: an object that was stored before the wrong one was lost by then, or it would not have been fetched again.
* `first_failed_at` is the oldest failure.
* The flag is the newest row of `bulkfetch accept`. Such a row gives the reason in its message. The rows of a run that
  heeds the flag give none: they do not set it again.
* A row of `bulkfetch accept` that names a run in `fields` (`REJECTED_RUN`) is about rows that this run rejected, and
  sets a flag for all of them.
* Other skipped rows change nothing.
* A rejected row whose input row could not be read names no invoice. It is kept by its run.
"""

import sqlite3
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from msgspec import UNSET

from bulkfetch.errors import Reason
from bulkfetch.models import Outcome, Row

SCHEMA_VERSION = 3

# Not WITHOUT ROWID: a look-up of many IDs walks an index of half the size, and a row is added at the table's end.
SCHEMA = """
CREATE TABLE invoices (
    invoice_id TEXT PRIMARY KEY, rank INTEGER NOT NULL DEFAULT 0, state TEXT, key TEXT, size INTEGER, sha256 TEXT,
    run TEXT NOT NULL DEFAULT '', offset INTEGER NOT NULL DEFAULT 0, at TEXT NOT NULL DEFAULT '', reason TEXT,
    retryable INTEGER, first_failed_at TEXT, first_failed_run TEXT, accepted_reason TEXT, flag_at TEXT
);
CREATE INDEX invoices_unresolved ON invoices (reason, retryable, invoice_id, first_failed_at)
    WHERE state <> 'stored' AND accepted_reason IS NULL;
CREATE INDEX invoices_accepted ON invoices (invoice_id) WHERE accepted_reason IS NOT NULL;
CREATE TABLE rejects (run TEXT NOT NULL, line INTEGER, raw TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX rejects_by_run ON rejects (run);
CREATE TABLE reject_flags (run TEXT PRIMARY KEY, accepted_reason TEXT, flag_at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE manifests (run TEXT PRIMARY KEY, bytes INTEGER NOT NULL, source TEXT) WITHOUT ROWID;
"""
"""`invoices.state` is `stored`, `failed` or `rejected`; NULL where there is a flag alone. `offset` is the byte where
the row begins in its manifest. `first_failed_run` is the run of the oldest failure. `manifests.source` is the input of
a run that read it to its end. It is `''` where a run's rejects do not count, and NULL while the run has no summary."""

REJECTED_RUN = "rejected_run"
"""The member of `fields` that names the run whose rejected rows a row of `bulkfetch accept` is about."""

KEY_INDEX = "CREATE INDEX IF NOT EXISTS invoices_by_key ON invoices (key) WHERE state = 'stored'"
"""Apart from the schema: when many rows are taken in, it is built faster after them."""

_VOTE = """
INSERT INTO invoices (invoice_id, rank, state, key, size, sha256, run, offset, at, reason, retryable)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (invoice_id) DO UPDATE SET
    (rank, state, key, size, sha256, run, offset, at, reason, retryable) =
    (excluded.rank, excluded.state, excluded.key, excluded.size, excluded.sha256, excluded.run, excluded.offset,
     excluded.at, excluded.reason, excluded.retryable)
WHERE (excluded.rank, excluded.at, excluded.run, excluded.offset) > (rank, at, run, offset)
"""
_FAILURE = """
UPDATE invoices SET (first_failed_at, first_failed_run) = (?2, ?3)
WHERE invoice_id = ?1 AND (first_failed_at IS NULL OR (first_failed_at, first_failed_run) > (?2, ?3))
"""
# Of two flags of the same moment one has to win, whichever is read first.
_FLAG = """
INSERT INTO invoices (invoice_id, accepted_reason, flag_at) VALUES (?, ?, ?)
ON CONFLICT (invoice_id) DO UPDATE SET (accepted_reason, flag_at) = (excluded.accepted_reason, excluded.flag_at)
WHERE flag_at IS NULL
   OR (excluded.flag_at, excluded.accepted_reason IS NULL, coalesce(excluded.accepted_reason, ''))
    > (flag_at, accepted_reason IS NULL, coalesce(accepted_reason, ''))
"""

_REJECT_FLAG = """
INSERT INTO reject_flags (run, accepted_reason, flag_at) VALUES (?, ?, ?)
ON CONFLICT (run) DO UPDATE SET (accepted_reason, flag_at) = (excluded.accepted_reason, excluded.flag_at)
WHERE (excluded.flag_at, excluded.accepted_reason IS NULL, coalesce(excluded.accepted_reason, ''))
    > (flag_at, accepted_reason IS NULL, coalesce(accepted_reason, ''))
"""
_REJECT = "INSERT INTO rejects VALUES (?, ?, ?, ?)"

_STORED, _SKIPPED, _REJECTED = Outcome.STORED, Outcome.SKIPPED, Outcome.REJECTED
_ACCEPTED, _WITHDRAWN = Reason.ACCEPTED, Reason.WITHDRAWN


def telling(rows: Sequence[Row]) -> list[int]:
    """Which of `rows` change a state or are rejects, by their index: most rows of a nightly run do not."""
    return [
        index
        for index, row in enumerate(rows)
        if row.outcome is not _SKIPPED or row.reason is _WITHDRAWN or (row.reason is _ACCEPTED and row.message)
    ]


def fold(
    connection: sqlite3.Connection, run: str, rows: Sequence[Row], told: Sequence[int], lines: bytes, start: int
) -> None:
    """Take into the tables of `connection` those of `rows` whose indexes are `told`. The rows are `lines` in the
    manifest of `run`, from byte `start` on.

    Raises:
        sqlite3.Error: only a part was taken in.
    """
    offsets = [*accumulate(map(len, lines.splitlines(keepends=True)), initial=start)]
    votes: list[tuple[Any, ...]] = []
    flags: list[tuple[Any, ...]] = []
    reject_flags: list[tuple[Any, ...]] = []
    failures, rejects = [], []
    for index in told:
        row = rows[index]
        if row.outcome is _SKIPPED:
            about = row.fields.get(REJECTED_RUN)
            flag = (about or row.invoice_id, row.message if row.reason is _ACCEPTED else None, row.finished_at)
            (flags if about is None else reject_flags).append(flag)
        elif row.outcome is _REJECTED and not row.fields:
            rejects.append((run, row.line, row.invoice_id, row.reason or ""))
        else:
            stored = row.outcome is _STORED
            votes.append((
                row.invoice_id, 2 if stored or row.corrects is not UNSET else 1, row.outcome, row.key, row.size,
                row.sha256, run, offsets[index], row.finished_at, row.reason if stored else row.reason or "",
                row.retryable,
            ))  # fmt: skip
            if not stored:
                failures.append((row.invoice_id, row.finished_at, run))
    for statement, parameters in (
        (_VOTE, votes), (_FAILURE, failures), (_FLAG, flags), (_REJECT_FLAG, reject_flags), (_REJECT, rejects),
    ):  # fmt: skip
        if parameters:
            connection.executemany(statement, parameters)
