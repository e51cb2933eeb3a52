"""From what a user writes to a source: a file, or standard input."""

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bulkfetch.errors import UsageError
from bulkfetch.interfaces import Source
from bulkfetch.sources.column_names import plain_name
from bulkfetch.sources.files.blocks import STDIN
from bulkfetch.sources.files.csv import TableParser
from bulkfetch.sources.files.damage import Damage
from bulkfetch.sources.files.encodings import AUTO, Recoder, known_encoding
from bulkfetch.sources.files.file import FileSource, Reading
from bulkfetch.sources.files.jsonl import JsonlParser
from bulkfetch.sources.files.lines import LineSplitter, Parser, unreadable
from bulkfetch.sources.files.txt import TextParser
from bulkfetch.sources.files.unpack import Unpacker
from bulkfetch.text import printable

FORMATS = ("auto", "txt", "csv", "jsonl")

_SUFFIXES = {".txt": "txt", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def open_source(
    spec: str,
    *,
    format: str = "auto",  # noqa: A002 - the flag's name
    column: str = "",
    encoding: str = AUTO,
    needed: Sequence[str] = (),
    tell: Callable[[str], None] = lambda message: None,  # noqa: ARG005 - nobody listens
) -> Source:
    """The source that `spec` names: a file `.txt`, `.csv` or `.jsonl`, each also `.gz`, or `-` for standard input.

    Looks at the file system, so it is to be called off the event loop.

    Args:
        format: overrides the file's suffix.
        column: names the column (CSV) or member (JSONL) that holds the invoice ID.
        encoding: of the text; `auto` takes UTF-8, and UTF-16 and UTF-32 where they are certain.
        needed: other columns that a row cannot do without.
        tell: told what a person should know of how the input is read.

    Raises:
        UsageError: there is no such source, or nothing that could be read as one.
    """
    if format not in FORMATS:
        raise UsageError(f"format {printable(format, 80)!r} is not known; use one of {', '.join(FORMATS)}")
    encoding = known_encoding(encoding)
    if "://" in spec:
        scheme = spec.partition("://")[0]
        raise UsageError(
            f"source {printable(scheme, 80)}://: such a source is not known here; use a file, or - for standard input "
            "(a run also takes a queue, nats://host:4222/stream or sqs://name)"
        )
    path = _standard_input() if spec == "-" else _regular(spec)
    chosen = _format_of(spec, column) if format == "auto" else format
    if chosen == "txt" and column:
        raise unreadable(spec, "a plain list has no columns; leave out --column, or use --format csv")

    def told(message: str) -> None:
        tell(f"source {printable(spec, 200)}: {message}")

    def parser() -> Parser:
        if chosen == "csv":
            return TableParser(spec, plain_name(column), Damage(spec, told), needed)
        if chosen == "jsonl":
            return JsonlParser(spec, column, Damage(spec, told))
        return TextParser(spec, wary_of_csv=format == "auto")

    def begin() -> Reading:
        return Reading(Unpacker(spec), Recoder(spec, encoding, told), LineSplitter(table=chosen == "csv"), parser())

    return FileSource(path, begin)


def _standard_input() -> int:
    try:
        terminal = os.isatty(STDIN)
        if fcntl.fcntl(STDIN, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            raise OSError  # what the command puts in the place of a closed one
    except OSError:
        raise unreadable("-", "standard input is closed; pipe the invoice IDs into it") from None
    if terminal:
        raise unreadable("-", "standard input is a terminal; pipe the invoice IDs into it, or name a file")
    return STDIN


def _regular(spec: str) -> Path:
    path = Path(spec)
    try:
        if path.is_dir():
            raise unreadable(spec, "this is a directory; name the file with the invoice IDs")
        path.stat()
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not a file name"
        raise unreadable(spec, f"{problem}; name the file with the invoice IDs, or - for standard input") from None
    return path


def _format_of(spec: str, column: str) -> str:
    if spec == "-":
        return "csv" if column else "txt"
    found = _SUFFIXES.get(Path(spec.lower().removesuffix(".gz")).suffix)
    if found is None:
        raise unreadable(spec, "the name does not tell the format; add --format txt, csv or jsonl")
    return "csv" if column and found == "txt" else found
