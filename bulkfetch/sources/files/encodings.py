"""Text in whatever encoding, made UTF-8: what every parser reads."""

import codecs
from collections.abc import Callable, Iterator

from bulkfetch.errors import UsageError
from bulkfetch.sources.files.kinds import foreign_kind
from bulkfetch.sources.files.lines import unreadable
from bulkfetch.text import printable

AUTO = "auto"

_ALLOWED = (
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "windows-1252",
    "windows-1250",
    "windows-1251",
    "iso-8859-1",
    "iso-8859-2",
    "iso-8859-15",
    "cp850",
    "cp437",
    "mac-roman",
)
_SHOWN = "auto, utf-8, utf-16, windows-1252, iso-8859-1, iso-8859-15, cp850 or mac-roman"
_CANONICAL = {codecs.lookup(name).name for name in _ALLOWED}

# The longer marks first: that of UTF-32 begins with the one of UTF-16.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TELLING = 8
"""Bytes that are enough to tell an encoding."""

_SLICE = 16 * 1024
"""Bytes that are decoded at a time: as UTF-8 they are no more than a block."""


def known_encoding(name: str) -> str:
    """`name` of an encoding as Python calls it, or `auto`.

    Raises:
        UsageError: an input cannot be in it.
    """
    try:
        found = name if name == AUTO else codecs.lookup(name).name
    except (LookupError, ValueError):
        found = ""
    if found != AUTO and found not in _CANONICAL:
        raise UsageError(f"encoding {printable(name, 80)!r} is not known; use {_SHOWN}")
    return found


class Recoder:
    """Passes UTF-8 through, and makes UTF-8 of any other encoding.

    `encoding` is one that `known_encoding` gave. With `auto`, UTF-16 and UTF-32 are found where that is certain: by
    their byte order mark, or by the zeros that ASCII has in them. That is told to `tell`. What cannot be decoded comes
    out as U+FFFD, or as the byte it was.
    """

    def __init__(self, name: str, encoding: str, tell: Callable[[str], None]) -> None:
        self._name = name
        self._encoding = encoding
        self._tell = tell
        self._head: bytes | None = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` is in UTF-8, in parts of a block at most.

        Raises:
            UsageError: this is no text, or surely not in the encoding that it is said to be in.
        """
        if self._head is not None:
            data = self._head + data
            if len(data) < _TELLING and (b"\n" not in data or b"\0" in data or data[:1] in (b"\xff", b"\xfe")):
                self._head = data
                return
            self._begin(data)
        if self._decoder is None:
            yield data
            return
        for start in range(0, len(data), _SLICE):
            yield _utf8(self._decoder.decode(data[start : start + _SLICE]))

    def finish(self) -> bytes:
        """What is left when the input has ended.

        Raises:
            UsageError: as `feed`.
        """
        left = self._head or b""
        if left:
            self._begin(left)
        return left if self._decoder is None else _utf8(self._decoder.decode(left, final=True))

    def _begin(self, head: bytes) -> None:
        self._head = None
        if kind := foreign_kind(head):
            raise unreadable(self._name, kind)
        found = _certain_encoding(head)
        encoding = self._encoding
        if encoding == AUTO:
            encoding = found or "utf-8"
            if encoding != "utf-8":
                self._tell(f"this is {encoding.upper()}, and read as such")
        elif found and not encoding.startswith(found[:6]):
            raise unreadable(
                self._name,
                f"its first bytes say {found.upper()}, not {encoding}; leave out --encoding, and it is found",
            )
        if encoding != "utf-8":
            errors = "replace" if encoding.startswith("utf") else "surrogateescape"
            self._decoder = codecs.getincrementaldecoder(encoding)(errors)


def _certain_encoding(head: bytes) -> str | None:
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    # A list begins in ASCII: UTF-16 then has a zero in every second byte. UTF-8 and the eight-bit encodings have none.
    begin = head[: 2 * _TELLING]
    low, high = begin[0::2], begin[1::2]
    if len(high) > 1 and not any(high) and 0 not in low[: len(high)]:
        return "utf-16-le"
    if len(high) > 1 and not any(low[: len(high)]) and 0 not in high:
        return "utf-16-be"
    return None


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
