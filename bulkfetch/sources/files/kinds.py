"""What an input is that is no text: known by its first bytes, whatever its name."""

import re

_SAVE_AS = "open it and save the list as CSV (in Excel: CSV UTF-8)"
_UNPACK = "unpack it first"

_PACKED = (
    (b"\x1f\x8b", "gzip once more: it was packed twice"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"\x1f\x9d", "compress (.Z)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
)
_DOCUMENTS = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document, such as .xls"),
    (b"{\\rtf", "an RTF document"),
    (b"%PDF-", "a PDF"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OFFICE_IN_ZIP = (b"[Content_Types].xml", b"_rels/", b"xl/", b"docProps/", b"mimetypeapplication/vnd.oasis")
_TAR_MARK = slice(257, 262)
_MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<(\?xml|!doctype|html|head|meta|table)\b", re.IGNORECASE)
# No ID and no header begins so. BZh is text as well, but for the digit and the block's mark that follow.
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")


def foreign_kind(head: bytes) -> str | None:
    """What an input that begins with `head` is, and what to do about it, in words; None if it may be text."""
    if head.startswith(_ZIP):
        if any(mark in head for mark in _OFFICE_IN_ZIP):
            return f"this is an Office document, such as .xlsx; {_SAVE_AS}"
        return f"this is a ZIP archive; {_UNPACK}"
    for mark, name in _PACKED:
        if head.startswith(mark) and (mark != b"BZh" or _BZIP2.match(head)):
            return f"this is {name}; {_UNPACK}"
    for mark, name in _DOCUMENTS:
        if head.startswith(mark):
            return f"this is {name}; {_SAVE_AS}"
    if head[_TAR_MARK] == b"ustar":
        return f"this is a tar archive; {_UNPACK}"
    if _MARKUP.match(head):
        return f"this is HTML or XML, as some programs write under the name of a table; {_SAVE_AS}"
    return None
