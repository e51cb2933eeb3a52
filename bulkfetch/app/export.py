"""`bulkfetch export`: what an archive holds, for other programs. One row an invoice, or every row."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import anyio
import msgspec

from bulkfetch.app.export_bag import write_bag
from bulkfetch.app.open_archive import is_bucket, local_root, readable_manifests
from bulkfetch.app.outside import with_way_out
from bulkfetch.config import Config
from bulkfetch.durable import disk_errors
from bulkfetch.errors import DamagedManifest, UsageError
from bulkfetch.manifest import Problem, list_runs, read_rows
from bulkfetch.manifest.row_file import whole_size
from bulkfetch.manifest.runs import check_run_id
from bulkfetch.manifest.states import InvoiceStates
from bulkfetch.models import NO_FIELDS, Row
from bulkfetch.text import printable

FIELDS = "fields."
"""What the name of a column of the input begins with."""

MEMBERS = (*(name for name in Row.__struct_fields__ if name != "fields"), "accepted")
"""The columns that every export can have: the members of a row, and why an invoice was accepted as a gap."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is exported, and how. `run` and `since` (UTC ISO 8601) leave out what is not of that run, or older.
    `columns` are those of a CSV file; none for all that there are."""

    all_rows: bool = False
    run: str | None = None
    since: str | None = None
    columns: Sequence[str] = ()
    delimiter: str = ","
    encoding: str = "utf-8"


def export_archive(config: Config, file: Path, wanted: Wanted, environ: Mapping[str, str]) -> int:
    """Write what the archive that `config` names holds to `file`: a .csv, a .jsonl, or, where the name has no ending, a
    BagIt bag. Returns how many rows, or objects, that are. `environ` holds the credentials for a bucket.

    Raises:
        UsageError: it cannot be exported so.
        FatalError: the archive cannot be read, or `file` cannot be written.
    """
    archive, environ = config.destination, with_way_out(environ, config.api)
    if wanted.run is not None:
        check_run_id(wanted.run)
    kind = file.suffix.lower()
    if kind not in (".csv", ".jsonl", ""):
        raise UsageError(f"{printable(file.name)}: name a .csv or a .jsonl file, or a directory for a BagIt bag")
    if not kind and (wanted.all_rows or is_bucket(archive.url)):
        raise UsageError("a bag is made of the objects of a directory, one for each invoice: name a .csv or a .jsonl")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bulkfetch-")))
        root = anyio.run(readable_manifests, archive, scratch, environ)
        if not list_runs(root):
            raise UsageError("there is no archive: its manifests/ is empty or missing")
        records: Callable[[], Iterator[Record]]
        if wanted.all_rows or wanted.run is not None:
            records = partial(_every_row, root, wanted)
        else:
            states = stack.enter_context(InvoiceStates.open(root, _refuse))
            records = partial(_invoices, states, wanted)
        if not kind:
            return write_bag(local_root(archive.url), file, (row for row in records() if row["outcome"] == "stored"))
        with _whole_file(file, wanted.encoding) as target:
            return _write_csv(target, records, wanted) if kind == ".csv" else _write_jsonl(target, records())


def _refuse(problem: Problem) -> None:
    raise DamagedManifest(f"{problem.file} is damaged: {problem.message}; bulkfetch verify names all that is")


def _invoices(states: InvoiceStates, wanted: Wanted) -> Iterator[Record]:
    for row, invoice_id, accepted in states.rows():
        if row is None:
            known: Record = {"invoice_id": invoice_id, "outcome": "skipped", "reason": "accepted"}
        elif wanted.since and row.finished_at < wanted.since:
            continue
        else:
            known = msgspec.to_builtins(row)
        yield {**known, "accepted": accepted}


def _every_row(root: Path, wanted: Wanted) -> Iterator[Record]:
    runs = [run for run in list_runs(root) if wanted.run in (None, run.id) and run.manifest]
    if not runs:
        raise UsageError(f"no manifest of run {wanted.run} is here")
    for run in runs:
        assert run.manifest is not None  # noqa: S101 - chosen so
        with disk_errors(f"read {run.manifest}"):
            for rows, _ in read_rows(run.manifest, 0, None if run.summary else whole_size(run.manifest)):
                yield from (
                    msgspec.to_builtins(row) for row in rows if not wanted.since or row.finished_at >= wanted.since
                )


@contextmanager
def _whole_file(file: Path, encoding: str) -> Iterator[IO[str]]:
    """`file`, which appears when all of it is written."""
    part = file.with_name(f"{file.name}.part")
    with disk_errors(f"write {file}"):
        try:
            with part.open("w", encoding=encoding, newline="") as target:
                yield target
            part.replace(file)
        except UnicodeEncodeError as error:
            char = printable(error.object[error.start : error.end])
            raise UsageError(f"{encoding} has no {char}: choose another --encoding, such as utf-8") from None
        finally:
            part.unlink(missing_ok=True)


def _write_jsonl(target: IO[str], records: Iterator[Record]) -> int:
    number = 0
    for number, record in enumerate(records, 1):  # noqa: B007 - the count is what is returned
        target.write(msgspec.json.encode(record).decode() + "\n")
    return number


def _write_csv(target: IO[str], records: Callable[[], Iterator[Record]], wanted: Wanted) -> int:
    columns = wanted.columns or [*MEMBERS, *_field_columns(records())]
    for column in columns:
        if column not in MEMBERS and not column.startswith(FIELDS):
            raise UsageError(f"no column {printable(column)}: there are {', '.join(MEMBERS)} and {FIELDS}NAME")
    writer = csv.writer(target, delimiter=wanted.delimiter)
    writer.writerow([harmless(column) for column in columns])
    number = 0
    for number, record in enumerate(records(), 1):  # noqa: B007 - as above
        fields = record.get("fields", NO_FIELDS)
        writer.writerow(
            harmless(fields.get(column.removeprefix(FIELDS)) if column.startswith(FIELDS) else record.get(column))
            for column in columns
        )
    return number


def _field_columns(records: Iterator[Record]) -> list[str]:
    """The columns of the inputs, in the order in which they come first."""
    return [f"{FIELDS}{name}" for name in dict.fromkeys(name for each in records for name in each.get("fields", ()))]


def harmless(value: object) -> object:
    """`value` as a cell that no spreadsheet takes for a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
