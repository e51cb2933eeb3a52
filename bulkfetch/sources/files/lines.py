"""Lines: what every format is split into first, within bounded memory."""

from typing import Protocol

from bulkfetch.errors import Reason, UsageError
from bulkfetch.models import InputRow, Malformed
from bulkfetch.sources.raw import raw_text
from bulkfetch.text import printable

LINE_CAP = 64 * 1024
TOO_LONG = f"the line is longer than {LINE_CAP} bytes"

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SHOWN_BYTES = 16


class Parser(Protocol):
    """Makes rows of an input's lines; one serves one reading of one input."""

    def parse(self, lines: list[bytes]) -> list[InputRow]:
        """The rows that end within `lines`, the next lines of the input without their newlines.

        Raises:
            UsageError: the input as a whole is not what it claims to be.
        """
        ...

    def finish(self) -> list[InputRow]:
        """The rows left when the input has ended."""
        ...


class LineSplitter:
    """Cuts blocks into lines.

    A line of more than `LINE_CAP` bytes comes out cut to one byte more than that, so it is still seen to be too long.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""
        self._begun = False

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that `block` completes.

        Raises:
            UsageError: the input is UTF-16.
        """
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()[: LINE_CAP + 1]
        if lines:
            # A block is no longer than the cap, so only a line begun before it can be.
            lines[0] = lines[0][: LINE_CAP + 1]
        return self._without_bom(lines)

    def finish(self) -> list[bytes]:
        """The last line, if the input did not end with a newline.

        Raises:
            UsageError: the input is UTF-16.
        """
        lines = [self._rest] if self._rest else []
        self._rest = b""
        return self._without_bom(lines)

    def _without_bom(self, lines: list[bytes]) -> list[bytes]:
        if lines and not self._begun:
            self._begun = True
            if lines[0].startswith(_UTF16_BOMS):
                raise unreadable(self._name, "this is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8")
            lines[0] = lines[0].removeprefix(_UTF8_BOM)
        return lines


def rejected(raw: bytes | str, reason: Reason, message: str, line: int) -> Malformed:
    """The row for an input line that names no usable invoice."""
    return Malformed(raw_text(raw), reason, message, line)


def not_utf8(error: UnicodeDecodeError) -> str:
    """Where the line that could not be decoded is not UTF-8, with its bytes in hex from there on."""
    found = error.object[error.start : error.start + _SHOWN_BYTES]
    return f"not UTF-8 from byte {error.start + 1} of the line on: {found.hex(' ')}"


def unreadable(name: str, problem: str) -> UsageError:
    """The error for an input that as a whole cannot be used."""
    return UsageError(f"source {printable(name, 200)}: {problem}")
