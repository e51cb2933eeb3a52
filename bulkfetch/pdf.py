"""What makes bytes a PDF that may be archived: the same check for a download and for an object found in the archive.

The check looks at the two ends of a document, so it costs next to nothing beside the hash:

    [junk] %PDF-1.7 ... 1 0 obj <<...>> ... startxref 123456 %%EOF [padding]

Senders put bytes before and behind a document by mistake, and readers skip them: that is no flaw. A wrapping is one (a
ZIP, a web page, a mail, JSON), and so is a conversion on the way that took binary data for text. A document that was
updated has an end for each of its revisions. Cut exactly there it is still a whole PDF: only its length, or a digest,
can tell.
"""

import codecs
import hashlib
import re
from dataclasses import dataclass

PDF_MARGIN = 1024
"""Bytes at the head in which `%PDF-` must stand: the rule of Acrobat (ISO 32000-1, annex H.3)."""

# The head holds the first object behind the last possible `%PDF-`, the tail most cross-reference tables.
_HEAD = 2 * PDF_MARGIN
_TAIL = 4 * PDF_MARGIN

_MARK = b"%PDF-"
_PADDING = b"\0 \n\r\t\f"
_PRINT_JOB = b"\x1b%-12345X"
_ESCAPED_OBJECT = re.compile(rb"\d[\0\s]+obj[\0\s]*&lt;&lt;")
# Comments may stand between the number and the end. `%%EOF` itself is one, and some producers write it twice.
_END = re.compile(rb"startxref[\0\s]*(\d+)[\0\s]*(?:%[^\r\n]*[\r\n][\0\s]*)*%%EOF\Z")

_WRAPPINGS = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("an archive", rb"PK\x03\x04"),
        ("an archive", rb"\A(?:\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|\xff\x06\0\0sNaPpY)"),
        ("an archive", rb"\A(?:7z\xbc\xaf|Rar!|MSCF|xar!|!<arch>|\xd0\xcf\x11\xe0|07070[127]|\x71\xc7|\xc7\x71|..-lh)"),
        # Old versions of tar write no mark, but all of them write a checksum at this place.
        ("an archive", rb"\A.{148}[ 0-7]{4,6}[0-7]\0"),
        ("markup", rb"<[A-Za-z!?/][^<>\0-\x08\x0e-\x1f]*(?:>|\Z)"),
        ("JSON", rb"\A(?:\xef\xbb\xbf)?\s*(?:\"|[\[{]\s*[\"\[{])|[\"']\Z"),
        ("a part of a form or mail", rb"(?:\A|\n)--\S"),
        ("a header", rb"(?:\A|\n)[!-9;-~]+:[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n\s*\Z"),
    )
)

# The first object of a linearized document ("fast web view") tells the document's length.
_LINEARIZED = re.compile(
    rb"%PDF-[^\r\n]*[\r\n](?:[\0\s]|%[^\r\n]*[\r\n])*\d+[\0\s]+\d+[\0\s]+obj[\0\s]*"
    rb"<<(?=[^<>]*/Linearized)[^<>]*/L[\0\s]+(\d+)"
)
# So many line ends behind `%%EOF` may be counted in that length.
_LINE_ENDS = 16

_NUMBERS = re.compile(rb"\d+[\0\s]+\d+\Z")
# An entry of a cross-reference table has 20 bytes, the last two of which end the line.
_ODD_ENTRY = re.compile(rb"\d{10} \d{5} [fn](?: \r\n|\r\r\n|\n|\r(?!\n))")
_QUOTED_PRINTABLE = re.compile(rb"(?:=[0-9A-F]{2}){4}")
# UTF-8 of characters that no text contains, U+0080 to U+009F, and of the one that replaces what could not be read.
_NO_TEXT = re.compile(rb"\xc2[\x80-\x9f]|\xef\xbf\xbd")
_NO_TEXT_COUNT = 8
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


class PdfCheck:
    """Counts and hashes a document that passes by in chunks, and keeps its two ends to look at.

    A few kilobytes are kept, however long the document is, and the padding behind it.
    """

    __slots__ = ("_content_end", "_head", "_padding", "_sha256", "_tail", "size")

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._head = b""
        # The last bytes before the padding at the end, the place where they end, and the last bytes of that padding.
        self._tail = b""
        self._content_end = 0
        self._padding = b""

    def take(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self.size += len(chunk)
        self._sha256.update(chunk)
        if len(self._head) < _HEAD:
            self._head += chunk[: _HEAD - len(self._head)]
        length = _content_length(chunk)
        if length == 0:
            self._padding = (self._padding + chunk)[-_TAIL:]
            return
        if length >= _TAIL:
            self._tail = chunk[length - _TAIL : length]
        else:
            self._tail = (self._tail + self._padding + chunk[:length])[-_TAIL:]
        self._padding = chunk[length:][-_TAIL:]
        self._content_end = self.size - len(chunk) + length

    @property
    def head(self) -> bytes:
        """The first bytes, up to two kilobytes."""
        return self._head

    @property
    def content_size(self) -> int:
        """How many bytes there are before the padding at the end."""
        return self._content_end

    def digest(self) -> bytes:
        """SHA-256 of all bytes so far."""
        return self._sha256.digest()

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes so far, in lower-case hex."""
        return self._sha256.hexdigest()

    def flaw(self) -> str | None:
        """Why the whole is no PDF, in words; None if nothing speaks against it."""
        if self.size == 0:
            return "the body is empty"
        start = self._head.find(_MARK, 0, PDF_MARGIN)
        if start < 0:
            return f"no %PDF- in the first {PDF_MARGIN} bytes"
        lead = self._head[:start]
        for name, pattern in _WRAPPINGS if lead else ():
            if pattern.search(lead):
                return f"{name} begins before %PDF-"
        tail = _without_job_end(self._tail) if lead.startswith(_PRINT_JOB) else self._tail
        place = tail.rfind(b"startxref")
        end = _END.match(tail, place) if place >= 0 else None
        if end is None:
            return _end_flaw(tail)
        # To look for the marks first costs a hundredth of the search.
        if any(b"&lt;&lt;" in part and _ESCAPED_OBJECT.search(part) for part in (self._head, tail)):
            return "its objects are escaped as HTML"
        tail_start = self._content_end - len(self._tail)
        target = int(end[1])
        if target >= tail_start + place:
            return f"startxref names byte {target}, but stands at {tail_start + place}"
        return _Ends(
            size=self.size,
            head=self._head,
            start=start,
            tail=tail[:place],
            tail_start=tail_start,
            target=target,
            content_end=tail_start + len(tail),
        ).flaw()


@dataclass(slots=True)
class _Ends:
    """Both ends of a document of `size` bytes. Places count from the file's first byte.

    `start` is the place of `%PDF-`. `tail` ends before the last `startxref`, and `target` is the number behind that.
    `content_end` is the place where the padding begins.
    """

    size: int
    head: bytes
    start: int
    tail: bytes
    tail_start: int
    target: int
    content_end: int

    def flaw(self) -> str | None:
        """Why the two ends are not those of one document as it was made; None if nothing speaks against it."""
        linearized = _LINEARIZED.match(self.head, self.start)
        if linearized is not None:
            length = int(linearized[1])
            if self.size < length:
                return f"{self.size} bytes, but linearized for {length}"
            # An update is appended with a cross-reference section of its own, and leaves the first object as it was.
            if self.target < length:
                as_made = length - _LINE_ENDS <= self.content_end <= self.start + length
                return None if as_made else f"{self.content_end} bytes, but linearized for {length}"
        return "binary data was converted as text on the way" if self._is_converted() else None

    def _is_converted(self) -> bool:
        """Whether the bytes were taken for text on the way: they look like text, and places have shifted.

        A wrong number behind `startxref` alone is no sign: producers miscount, and readers search for the table.
        """
        shifted = self._is_shifted()
        head, tail = self.head[self.start :], self.tail[max(0, self.start - self.tail_start) :]
        if shifted and (_has_other_line_ends(head, tail) or _QUOTED_PRINTABLE.search(head)):
            return True
        if head.isascii() and tail.isascii():
            return False
        if not (_is_utf8(head) and _is_utf8(tail)):
            return False
        if shifted:
            return True
        return max(len(_NO_TEXT.findall(head)), len(_NO_TEXT.findall(tail))) >= _NO_TEXT_COUNT

    def _is_shifted(self) -> bool:
        """Whether the last cross-reference section stands in the tail, and elsewhere than `startxref` says."""
        place = self.target - self.tail_start
        if place >= 0 and self.tail.startswith(b"xref", place):
            return False
        table, item = self.tail.rfind(b"xref"), self.tail.rfind(b" obj")
        if table > item and self.tail[max(0, table - 5) : table] != b"start":
            section = table
        elif item >= 0 and b"/XRef" in self.tail[item:] and (numbers := _NUMBERS.search(self.tail[:item], item - 20)):
            section = numbers.start()
        else:
            return False
        # Producers count from the file's first byte or from `%PDF-`, and some are one or two bytes off.
        shift = self.tail_start + section - self.target
        return abs(shift) > 2 and abs(shift - self.start) > 2


def _content_length(chunk: bytes) -> int:
    """How many bytes of `chunk` stand before the padding at its end."""
    # As a rule the last few bytes tell. To strip the whole chunk would copy it.
    last = chunk[-64:]
    content = last.rstrip(_PADDING)
    return len(chunk) - len(last) + len(content) if content else len(chunk.rstrip(_PADDING))


def _end_flaw(tail: bytes) -> str:
    last = tail.rfind(b"%%EOF")
    if last < 0:
        return "no %%EOF at the end"
    more = len(tail) - last - len(b"%%EOF")
    return f"{more} bytes follow the last %%EOF" if more else "no startxref before the last %%EOF"


def _without_job_end(tail: bytes) -> bytes:
    """`tail` without what ends a print job behind its document."""
    end = tail.rfind(b"%%EOF") + len(b"%%EOF")
    return tail[:end] if tail[end:].lstrip(_PADDING).startswith(_PRINT_JOB) else tail


def _has_other_line_ends(head: bytes, tail: bytes) -> bool:
    """Whether a conversion of line ends has left its traces."""
    lines = head.count(b"\n") + tail.count(b"\n")
    return bool(_ODD_ENTRY.search(tail)) or 0 < lines == head.count(b"\r\n") + tail.count(b"\r\n")


def _is_utf8(data: bytes) -> bool:
    """Whether `data` is UTF-8, but for a character that is cut in two at an end."""
    try:
        codecs.utf_8_decode(data.lstrip(_CONTINUATION_BYTES), "strict", False)
    except UnicodeDecodeError:
        return False
    return True
