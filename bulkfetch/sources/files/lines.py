"""Lines: what every format is split into first, within bounded memory."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from bulkfetch.errors import Reason, UsageError
from bulkfetch.models import InputRow, Malformed
from bulkfetch.sources.raw import raw_text
from bulkfetch.text import printable

LINE_CAP = 64 * 1024
TOO_LONG = f"the line is longer than {LINE_CAP} bytes: is a quote or a line end missing?"

_UTF8_BOM = b"\xef\xbb\xbf"
_DOS_END = b"\x1a"
_SHOWN_BYTES = 16
# A quoted cell may hold line ends of another kind. More than one CR before an LF is what a twice converted file has.
_LINE_END = re.compile(rb'"[^"]*"|(\r+\n|\n|\r)')


class Parser(Protocol):
    """Makes rows of an input's lines; one serves one reading of one input."""

    not_rows: Counter[str]
    """How many lines were no rows, by kind: `blank`, `comment`, `ghost` (nothing but delimiters), `header` (again)."""

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        """The rows that end within `lines`, the next lines of the input without their newlines.

        Raises:
            UsageError: the input as a whole is not what it claims to be.
        """
        ...

    def finish(self, unended: Sequence[bytes] = ()) -> list[InputRow]:
        """The rows left when the input has ended; `unended` is its last line, if no line end follows it.

        Raises:
            UsageError: as `parse`.
        """
        ...


class LineSplitter:
    """Cuts blocks of UTF-8 into lines, which end with LF or CR LF, or in a file whose first line ends so, with CR.

    A line of more than `LINE_CAP` bytes comes out cut to one byte more than that, so it is still seen to be too long.
    A BOM before any line is left out, since lists are joined with `cat`, and so is the Ctrl-Z at a DOS file's end.
    `table` says that cells may be quoted: where lines end with CR, an LF then belongs to its cell.
    """

    def __init__(self, *, table: bool = False) -> None:
        self._table = table
        self._rest = b""
        self._end: bytes | None = None

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that `block` completes."""
        data = self._rest + block
        if self._end is None:
            self._end = _line_end(data)
        if self._end is None:
            self._rest = data[: LINE_CAP + 1]
            return []
        lines = self._split(data)
        self._rest = lines.pop()[: LINE_CAP + 1]
        if lines:
            # A block is no longer than the cap, so only a line begun before it can be.
            lines[0] = lines[0][: LINE_CAP + 1]
        return lines

    def finish(self) -> tuple[list[bytes], list[bytes]]:
        """The lines that are left when the input has ended; apart from them the last one, if no line end follows it."""
        rest = self._rest.rstrip(_DOS_END)
        if self._end is None:
            # Nothing has come behind a CR at the very end, so it ends a line either way.
            self._end = b"\r" if b"\r" in rest else b"\n"
        self._rest = b""
        *lines, last = self._split(rest)
        return lines, [last] if last else []

    def _split(self, data: bytes) -> list[bytes]:
        if self._end == b"\n":
            lines = data.split(b"\n")
        elif self._table:
            lines = [line.removeprefix(b"\n") for line in data.split(b"\r")]
        else:
            lines = data.replace(b"\r", b"\n").split(b"\n")
        return [_without_boms(line) for line in lines] if _UTF8_BOM in data else lines


def _line_end(data: bytes) -> bytes | None:
    """How the first line of `data` ends; None if that cannot be told yet."""
    found = next((match for match in _LINE_END.finditer(data) if match[1]), None)
    if found is None or not data[found.start() :].strip(b"\r"):
        return None
    return b"\r" if found[1] == b"\r" else b"\n"


def rejected(raw: bytes | str, reason: Reason, message: str, line: int) -> Malformed:
    """The row for an input line that names no usable invoice."""
    return Malformed(raw_text(raw), reason, message, line)


def not_utf8(error: UnicodeDecodeError) -> str:
    """Where the line that could not be decoded is not UTF-8, with its bytes in hex from there on, and the fix."""
    found = error.object[error.start : error.start + _SHOWN_BYTES]
    return (
        f"not UTF-8 from byte {error.start + 1} of the line on: {found.hex(' ')}; if the list comes from Windows or "
        "Excel, add --encoding windows-1252"
    )


def is_eight_bit(lines: Sequence[bytes]) -> bool:
    """Whether `lines`, of which one is not UTF-8, are in another encoding altogether: none has a letter beyond ASCII
    that UTF-8 would write so. Else a single cell is damaged."""
    return not any(_is_beyond_ascii(line) for line in lines)


def _is_beyond_ascii(line: bytes) -> bool:
    try:
        return not line.isascii() and bool(line.decode())
    except UnicodeDecodeError:
        return False


def unreadable(name: str, problem: str) -> UsageError:
    """The error for an input that as a whole cannot be used."""
    return UsageError(f"source {printable(name, 200)}: {problem}")


def _without_boms(line: bytes) -> bytes:
    while line.startswith(_UTF8_BOM):
        line = line.removeprefix(_UTF8_BOM)
    return line
