"""From what a user writes to a source: a file, or standard input."""

import os
from pathlib import Path

from bulkfetch.errors import UsageError
from bulkfetch.interfaces import Source
from bulkfetch.sources.files.blocks import STDIN
from bulkfetch.sources.files.csv import TableParser
from bulkfetch.sources.files.file import FileSource, ParserFactory
from bulkfetch.sources.files.jsonl import JsonlParser
from bulkfetch.sources.files.lines import unreadable
from bulkfetch.sources.files.txt import TextParser
from bulkfetch.text import printable

FORMATS = ("auto", "txt", "csv", "jsonl")


def open_source(spec: str, *, format: str = "auto", column: str = "") -> Source:  # noqa: A002 - the flag's name
    """The source that `spec` names: a file `.txt`, `.csv` or `.jsonl`, each also `.gz`, or `-` for standard input.

    `format` overrides the file's suffix, `column` names the column (CSV) or member (JSONL) that holds the invoice ID.
    Looks at the file system, so it is to be called off the event loop.

    Raises:
        UsageError: there is no such source, or nothing that could be read as one.
    """
    if format not in FORMATS:
        raise UsageError(f"format {printable(format, 80)!r} is not known; use one of {', '.join(FORMATS)}")
    if "://" in spec:
        scheme = spec.partition("://")[0]
        raise UsageError(
            f"source {printable(scheme, 80)}://: such a source is not known here; use a file, or - for standard input "
            "(a run also takes a queue, nats://host:4222/stream or sqs://name)"
        )
    path = _standard_input() if spec == "-" else _regular(spec)
    chosen = _format_of(spec, column) if format == "auto" else format
    return FileSource(path, _parser(spec, chosen, column, guessed=format == "auto"))


def _standard_input() -> int:
    try:
        terminal = os.isatty(STDIN)
        os.fstat(STDIN)
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
    suffix = Path(spec.lower().removesuffix(".gz")).suffix
    if suffix not in {".txt", ".csv", ".jsonl"}:
        raise unreadable(spec, "the name does not tell the format; add --format txt, csv or jsonl")
    return "csv" if column and suffix == ".txt" else suffix[1:]


def _parser(name: str, format: str, column: str, *, guessed: bool) -> ParserFactory:  # noqa: A002 - as above
    if format == "csv":
        return lambda: TableParser(name, column)
    if format == "jsonl":
        return lambda: JsonlParser(name, column)
    if column:
        raise unreadable(name, "a plain list has no columns; leave out --column, or use --format csv")
    return lambda: TextParser(name, wary_of_csv=guessed)
