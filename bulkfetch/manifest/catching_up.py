"""How a ledger is brought up to date with the manifests."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bulkfetch.durable import disk_errors
from bulkfetch.errors import FatalError, UsageError
from bulkfetch.manifest.chain import read_summary
from bulkfetch.manifest.invoice_state import KEY_INDEX, fold, telling
from bulkfetch.manifest.row_file import whole_size
from bulkfetch.manifest.rows import read_blocks
from bulkfetch.manifest.runs import Run, list_runs
from bulkfetch.models import Row

_NO_SOURCE = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """What the manifests hold beyond what a ledger knows: `parts`, the run, its manifest, and the bytes from and to;
    `ended`, the runs whose summary is new. `known` and `new` are the sizes in bytes.

    `shrunk` says that a manifest has become shorter or was removed. Then nothing that the ledger knows counts, and
    `anew` is set, as it is for a ledger that knows nothing yet.
    """

    parts: Sequence[tuple[str, Path, int, int]]
    ended: Sequence[Run]
    known: int
    anew: bool
    shrunk: bool

    @property
    def new(self) -> int:
        """How many bytes of the manifests are unread."""
        return sum(end - start for _, _, start, end in self.parts)


def layers(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The databases that make up the ledger, the newest last: its overlay `main` hides what its `base` says."""
    # Not the files' names with them, which need not be UTF-8.
    names = {name for (name,) in connection.execute("SELECT name FROM pragma_database_list")}
    return ("base", "main") if "base" in names else ("main",)


def find_unread(root: Path, connection: sqlite3.Connection) -> Unread:
    """What the manifests in `root` hold beyond what `connection` knows.

    Raises:
        FatalError: the manifests cannot be read.
        sqlite3.Error: the ledger cannot.
    """
    # The ledger is read before the list of runs. Other processes write a manifest before they index it, so every run
    # that the ledger names is in the list.
    known = _known(connection)
    with disk_errors(f"read the manifests in {root}"):
        runs = list_runs(root)
        ends = {run.id: _end(run) for run in runs}
    shrunk = any(ends.get(run, -1) < size for run, (size, _) in known.items())
    if shrunk:
        known = {}
    none = (0, None)
    return Unread(
        parts=[
            (run.id, run.manifest, known.get(run.id, none)[0], ends[run.id])
            for run in runs
            if run.manifest and known.get(run.id, none)[0] < ends[run.id]
        ],
        ended=[run for run in runs if run.summary and known.get(run.id, none)[1] is None],
        known=sum(size for size, _ in known.values()),
        anew=not known,
        shrunk=shrunk,
    )


def catch_up(root: Path, connection: sqlite3.Connection) -> None:
    """Take in what the manifests hold beyond what `connection` knows. If a manifest has become shorter or was removed,
    the ledger starts anew.

    Raises:
        FatalError: a manifest is damaged.
        sqlite3.Error: the ledger is; or it has a base, and the base would have to start anew.
    """
    unread = find_unread(root, connection)
    based = "base" in layers(connection)
    if unread.shrunk and based:
        raise sqlite3.DatabaseError("the base knows rows that no manifest holds any more")
    if not (unread.parts or unread.ended or unread.anew):
        return
    with disk_errors(f"read the manifests in {root}"), transaction(connection):
        if unread.anew and not based:
            _clear(connection)
        for run, manifest, start, end in unread.parts:
            for rows, lines, offset in read_blocks(manifest, start, end):
                take_in(connection, run, rows, lines, offset - len(lines))
        for ended in unread.ended:
            _settle(connection, ended)
        _drop_old_rejects(connection)
        connection.execute(KEY_INDEX)


def take_in(connection: sqlite3.Connection, run: str, rows: Sequence[Row], lines: bytes, start: int) -> None:
    """Take in `rows`, which are `lines` in the manifest of `run`, from byte `start` on.

    Raises:
        sqlite3.Error: only a part was taken in.
    """
    if told := telling(rows):
        if "base" in layers(connection):
            # What is folded into the overlay has to know what the base says.
            ids = msgspec.json.encode([rows[index].invoice_id for index in told]).decode()
            connection.execute(
                """INSERT OR IGNORE INTO main.invoices
                   SELECT invoices.* FROM json_each(?) AS told
                   CROSS JOIN base.invoices AS invoices ON invoices.invoice_id = told.value""",
                (ids,),
            )
        fold(connection, run, rows, told, lines, start)
    connection.execute(
        """INSERT INTO manifests (run, bytes) VALUES (?, ?)
           ON CONFLICT (run) DO UPDATE SET bytes = excluded.bytes""",
        (run, start + len(lines)),
    )


def newest_ended(connection: sqlite3.Connection) -> Mapping[str, str]:
    """The runs whose rejects count, with their sources: of each file the newest run that read it to its end."""
    newest = {source: run for run, (_, source) in sorted(_known(connection).items()) if source}
    return {run: source for source, run in newest.items()}


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is done to `connection` in this block, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        yield


def _known(connection: sqlite3.Connection) -> dict[str, tuple[int, str | None]]:
    """How much of each run's manifest is known, and its source: see `invoice_state.SCHEMA`."""
    known: dict[str, tuple[int, str | None]] = {}
    for layer in layers(connection):
        rows = connection.execute(f"SELECT run, bytes, source FROM {layer}.manifests")  # noqa: S608 - a fixed name
        known.update((run, (size, source)) for run, size, source in rows)
    return known


def _clear(connection: sqlite3.Connection) -> None:
    """Empty the tables. The index by key is dropped, too: it is built faster after all rows are in."""
    connection.execute("DROP INDEX IF EXISTS invoices_by_key")
    for table in ("invoices", "rejects", "reject_flags", "manifests"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a fixed name


def _settle(connection: sqlite3.Connection, run: Run) -> None:
    """Note where the rejects of `run` came from, now that it has a summary."""
    assert run.summary is not None  # noqa: S101 - the caller chose it so
    try:
        summary = read_summary(run.summary)
    except UsageError:
        raise
    except FatalError:
        return  # damaged: `verify` tells of it, and perhaps it is mended
    # A queue keeps its rejects itself, as its dead letters.
    source = summary.source if summary.finished and "://" not in summary.source else _NO_SOURCE
    connection.execute(
        """INSERT INTO manifests VALUES (?, ?, ?)
           ON CONFLICT (run) DO UPDATE SET source = excluded.source""",
        (run.id, _end(run), source),
    )


def _drop_old_rejects(connection: sqlite3.Connection) -> None:
    """Delete the rejects that do not count any more."""
    kept = msgspec.json.encode([*newest_ended(connection)]).decode()
    connection.execute(
        """DELETE FROM main.rejects
           WHERE run NOT IN (SELECT value FROM json_each(?))
             AND run IN (SELECT run FROM main.manifests WHERE source IS NOT NULL)""",
        (kept,),
    )


def _end(run: Run) -> int:
    """How far the manifest of `run` may be read. Without a summary the last line may be torn."""
    if run.manifest is None:
        return 0
    return run.manifest.stat().st_size if run.summary else whole_size(run.manifest)
