"""Bytes that are not UTF-8 in an input that should be."""

from collections.abc import Callable, Sequence

from bulkfetch.sources.files.lines import is_eight_bit, not_utf8, unreadable


class Damage:
    """Judges the lines of one input that are not UTF-8.

    Before anything was handed out, lines of which none is UTF-8 beyond ASCII say that the whole input is in another
    encoding: then it is refused, as its names would be wrong in every row. Later, or among others, a line is damaged by
    itself, as when a program has cut a name in the middle of a letter. Then only the cells that are needed must be
    whole. The first such line is told to `tell`.

    Mutable: `handed_out`, whether rows were.
    """

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self.handed_out = False
        self._name = name
        self._tell = tell
        self._told = False

    def problem(self, error: UnicodeDecodeError, lines: Sequence[bytes], number: int, cell: str = "") -> str:
        """What is wrong with line `number`, one of `lines`, in words; `cell` says where, if that is known.

        Raises:
            UsageError: the whole input is in another encoding.
        """
        problem = not_utf8(error)
        if not self.handed_out and is_eight_bit(lines):
            raise unreadable(self._name, f"line {number}{cell and ', ' + cell}: {problem}")
        if not self._told:
            self._told = True
            self._tell(f"line {number}{cell and ', ' + cell}: {problem}; other cells are kept with \\x.. in them")
        return problem
