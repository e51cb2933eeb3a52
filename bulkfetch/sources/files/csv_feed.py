"""Lines on their way into `csv.reader`."""

from collections.abc import Iterator, Sequence

from bulkfetch.sources.files.lines import LINE_CAP, TOO_LONG

RECORD_CAP = LINE_CAP
UNCLOSED = f"a quoted field is not closed within {RECORD_CAP} bytes, or before the input ends"


class Unfinished(Exception):
    """A row wants a line more than there is, or than it may have."""


class Feed(Iterator[str]):
    """Feeds `lines` to `csv.reader`, which asks for another line only while a row is not complete.

    Attributes:
        start: where the row begins.
        at: where the next line is.
        size: bytes of the row so far.
        problem: why the row cannot be used, whatever its cells are.
        damage: the row's first line that is not UTF-8; its bytes come as `surrogateescape` has them.
    """

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.lines = lines
        self.at = 0
        self.begin()

    def begin(self) -> None:
        """Begin a row at the next line."""
        self.start = self.at
        self.size = 0
        self.problem = ""
        self.damage: UnicodeDecodeError | None = None

    def again(self) -> None:
        """Go back to where the row begins."""
        self.at = self.start
        self.begin()

    def __next__(self) -> str:
        if self.at == len(self.lines) or self.size > RECORD_CAP:
            raise Unfinished(UNCLOSED)
        line = self.lines[self.at]
        self.at += 1
        self.size += len(line) + 1
        if len(line) > LINE_CAP:
            self.problem = TOO_LONG
            return "\n"
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError as error:
            self.damage = self.damage or error
            return line.decode("utf-8", "surrogateescape") + "\n"
