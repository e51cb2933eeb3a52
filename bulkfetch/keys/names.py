"""How any text becomes the name of a file or folder that every disk and bucket takes, and people can still read.

Letters and digits of every script, blanks and `-_.,()+=@&'` stand as they are, in Unicode normal form NFC. Every other
character is written `%xx`, one for each byte of its UTF-8.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from bulkfetch.keys.paths import MANIFESTS, STATE

SEGMENT_LIMIT = 255
"""Bytes of UTF-8 that one name may have, by the limit of common file systems."""

KEY_LIMIT = 1000
"""Bytes of UTF-8 that a whole key may have. S3 takes 1024, of which a bucket's prefix needs some."""

SIGNS = "-_.,()+=@&'"
"""What stands in a name besides letters, digits and blanks."""

_DIGEST_CHARS = 16
_APPENDED = 8  # for what a copy or a check appends to a file's name, such as ".sha256"
SPARE = 1 + _DIGEST_CHARS + 2 * len("%2") + _APPENDED
"""Bytes of a name that its values leave free: for `~` and a digest, an escape at each end, and what others append."""

WIDEST = 4 * len("%xx")
"""Bytes that one character can take."""

# Letters and marks that show nothing: Unicode's default ignorables, and the blanks among the hieroglyphs.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\U00013441\U00013442").union(
    map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)
_STANDING = frozenset(f"{SIGNS} ")
_ENDS = frozenset(". ")

_DEVICE = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]) *(?:\.[^/]*)?"
_RESERVED = "|".join([_DEVICE, re.escape(MANIFESTS), re.escape(STATE)])
_is_device = re.compile(_DEVICE, re.IGNORECASE).fullmatch
_is_reserved = re.compile(_RESERVED, re.IGNORECASE).fullmatch

# ASCII and the Latin letters of one code point, which are in NFC whatever stands beside them.
_PLAIN = rf"[A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f {re.escape(SIGNS)}]"
_HARMLESS = rf"(?!(?i:{_RESERVED})(?:/|\Z))(?![. ]){_PLAIN}+(?<![. ])"
_is_harmless = re.compile(rf"{_HARMLESS}(?:/{_HARMLESS})*").fullmatch
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")


def is_harmless(key: str) -> bool:
    """Whether each name in `key` can surely stand as it is. False may only mean that a closer look is needed: of all
    letters this knows the Latin ones alone."""
    return _is_harmless(key) is not None


def is_device(name: str) -> bool:
    """Whether `name` means a device on Windows, whatever its extension."""
    return _is_device(name) is not None


def is_reserved(name: str) -> bool:
    """Whether `name` is a device on Windows, or a folder of the archive's own on any disk."""
    return _is_reserved(fold(name)) is not None


def first_escaped(text: str) -> int | None:
    """Where in `text` the first character is that cannot stand in a name as it is; None if all of them can."""
    return next((index for index, piece in enumerate(_pieces(text)) if len(piece) > 1), None)


def escape(text: str) -> str:
    """`text` in NFC and without any character that may not stand in a name. Its first and last one may still be a dot
    or a blank; an empty text becomes `_`."""
    return "".join(_pieces(unicodedata.normalize("NFC", text))) or "_"


def shorten(text: str, size: int) -> str:
    """As much of `escape(text)` as fits into `size` bytes, cut between two characters of `text`.

    Args:
        size: at least `WIDEST`.
    """
    taken: list[str] = []
    for piece in _pieces(unicodedata.normalize("NFC", text)):
        size -= len(piece.encode())
        if size < 0:
            break
        taken.append(piece)
    return "".join(taken) or "_"


def guard(name: str) -> str:
    """`name`, of escaped texts, with what its first and last character would do escaped too: hide the file, get lost on
    Windows, or make the whole a reserved name."""
    if name[0] in _ENDS or is_reserved(name):
        name = f"{_percent(name[0])}{name[1:]}"
    return f"{name[:-1]}{_percent(name[-1])}" if name[-1] in _ENDS else name


def mark(name: str, values: Iterable[str]) -> str:
    """`name` with `~` and a digest of `values` before its extension. No two lists of values give one marked name, and
    none is the name of a text, since `~` is always escaped."""
    # Lengths keep ("ab", "c") and ("a", "bc") apart, whatever characters the values hold.
    data = "".join(f"{len(value)}:{value}," for value in values)
    digest = hashlib.sha256(_utf8(data)).hexdigest()[:_DIGEST_CHARS]
    extension = _EXTENSION.search(name)
    end = extension.start() if extension else len(name)
    return f"{name[:end]}~{digest}{name[end:]}"


def fold(key: str) -> str:
    """What a disk sees of `key` that is blind to case and normal form: two keys meet there if this is equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", key).casefold())


def _pieces(text: str) -> list[str]:
    """The characters of `text`, which is in NFC, each as it stands in a name."""
    pieces: list[str] = []
    after_letter = False
    for char in text:
        category = unicodedata.category(char)
        if char in _INVISIBLE:
            stands = after_letter = False
        elif category in {"Mn", "Mc"} or "\u1160" <= char <= "\u11ff":
            # These join the letter before. After anything else they would join an escape's last digit, or the text in
            # front of this one, and the whole would not be in NFC any more.
            stands = after_letter
        else:
            after_letter = category[0] == "L"
            stands = after_letter or category == "Nd" or char in _STANDING
        pieces.append(char if stands else _percent(char))
    return pieces


def _percent(char: str) -> str:
    return "".join(f"%{byte:02x}" for byte in _utf8(char))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
