"""What an invoice ID may look like, the key its document is kept under, and the names an archive keeps for itself.

A key has to survive every place an archive may be moved to: names that differ only in case or in Unicode normal form
are one name on some file systems, and others reserve names or forbid characters. So only ASCII letters, digits, `-`,
`_` and `.` of a value stand as they are, every other byte of its UTF-8 is written `%xx`; and wherever that changed
anything, or a letter is upper-case, a short digest of the unchanged values keeps the name apart from its neighbours.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from bulkfetch.errors import PermanentError, Reason, UsageError
from bulkfetch.text import printable

MANIFESTS = "manifests"
"""The folder of an archive that holds the manifests and summaries of its runs."""

STATE = ".bulkfetch"
"""The folder of an archive that holds everything else that is no object: lock, ledger, temporary files, quarantine."""

ID_LIMIT = 200
SEGMENT_LIMIT = 255
KEY_LIMIT = 1000

_ALLOWED_ID = (
    f"an invoice ID is 1 to {ID_LIMIT} characters without spaces, control or invisible characters, "
    "and without / \\ ? # % , ; \" '"
)
_FORBIDDEN = frozenset("/\\?#%,;\"'")
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})
_is_plain_id = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{ID_LIMIT - 1}}}").fullmatch

_DIGEST_CHARS = 16
_SPARE = 1 + _DIGEST_CHARS + 2  # "~" and the digest, and one character more that may have to be escaped
_LEAST_ROOM = 8

_OWN_NAMES = frozenset({MANIFESTS, STATE})
_WINDOWS_NAMES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)

_ESCAPED = re.compile(r"[^A-Za-z0-9._-]+")
# No part of such a key begins with a dot.
_is_plain_key = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*").fullmatch
_UPPER = re.compile(r"[A-Z]")
# What nearly every ID is: nothing in it is escaped or marked.
_is_unchanged = re.compile(r"[a-z0-9_-]+").fullmatch
_has_reserved_name = re.compile(
    rf"(?:^|/)(?:{'|'.join(re.escape(name) for name in sorted(_OWN_NAMES | _WINDOWS_NAMES))})[ ]*(?:[./]|$)",
    re.IGNORECASE,
).search
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[^{}]+|[{}]")
_PLACEHOLDER = re.compile(r"(?:id|fields\[(?P<column>[^\[\]]+)\])(?P<cut>\[(-?[0-9]{1,4})?:(-?[0-9]{1,4})?\])?")
_BAD_LITERAL = re.compile(r"[^A-Za-z0-9._ +=@()/-]")

KeyPath = tuple[str, ...]
"""A key's components; the last is the file's name."""


def check_invoice_id(text: str) -> str | None:
    """None if `text` is a usable invoice ID, else what is wrong with it, in words that are safe to show."""
    if _is_plain_id(text):
        return None
    if not text:
        return f"the invoice ID is empty: {_ALLOWED_ID}"
    if len(text) > ID_LIMIT:
        return f"the invoice ID has {len(text)} characters: {_ALLOWED_ID}"
    if text in {".", ".."}:
        return f"{text!r} is a directory, not an invoice ID: {_ALLOWED_ID}"
    for position, char in enumerate(text, 1):
        if char in _FORBIDDEN or unicodedata.category(char) in _FORBIDDEN_CATEGORIES:
            name = unicodedata.name(char, "no printable character")
            return f"character {position} is U+{ord(char):04X} ({name}): {_ALLOWED_ID}"
    return None


def key_path(key: str) -> KeyPath:
    """The components of `key`.

    Raises:
        PermanentError: `invalid_id`: the key would leave the archive, or meet the store's own files, or is no file
            name.
    """
    path = tuple(key.split("/"))
    if _is_plain_key(key):
        return path
    try:
        usable = b"\0" not in key.encode() and not {"", ".", ".."}.intersection(path) and path[0] != STATE
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise PermanentError(Reason.INVALID_ID, f"{printable(key, 200)!r} cannot be a key")
    return path


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """Stands for the invoice ID, or for the input's column `column`; `cut` is the slice to take of it."""

    column: str | None
    cut: slice | None

    def value(self, invoice_id: str, fields: Mapping[str, str]) -> str:
        value = invoice_id
        if self.column is not None:
            value = fields.get(self.column, "")
            if not value:
                raise PermanentError(
                    Reason.INVALID_ROW, f"the key needs the field {printable(self.column, 80)!r}, and the row has none"
                )
        return value if self.cut is None else value[self.cut]


@dataclass(frozen=True)
class _Segment:
    """What stands between two slashes of a template."""

    parts: tuple[str | _Placeholder, ...]

    @cached_property
    def places(self) -> list[_Placeholder]:
        return [part for part in self.parts if isinstance(part, _Placeholder)]

    @cached_property
    def fixed(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def room(self) -> int:
        """Bytes the segment needs at the least."""
        return len(self.fixed) + (_SPARE + _LEAST_ROOM * len(self.places) if self.places else 0)

    def encode(self, values: Iterable[str], limit: int) -> list[str]:
        """`values` written so that the segment is harmless in every file system and, a suffix included, within
        `limit` bytes."""
        names = [_escape(value) for value in values]
        room = limit - len(self.fixed) - _SPARE
        if sum(map(len, names)) > room:
            names = [_shorten(name, room // len(names)) for name in names]
        if names and _is_reserved(self.join(names)):
            names[0] = f"%{ord(names[0][0]):02x}{names[0][1:]}"
        return names

    def join_format(self) -> str:
        """The segment as a `%` format of its values."""
        return "".join(part.replace("%", "%%") if isinstance(part, str) else "%s" for part in self.parts)

    def join(self, names: Iterable[str]) -> str:
        filled = iter(names)
        return "".join(part if isinstance(part, str) else next(filled) for part in self.parts)


@dataclass(frozen=True, slots=True)
class _QuickKey:
    """Makes the keys of IDs that stand in them as they are: `form` with the slices `cuts` of an ID of up to `longest`
    characters."""

    form: str
    cuts: tuple[slice, ...]
    longest: int

    @classmethod
    def of(cls, segments: Sequence[_Segment], limit: int) -> Self | None:
        """For the template of `segments`, each of at most `limit` bytes; None if other columns are in it."""
        places = [place for segment in segments for place in segment.places]
        if any(place.column is not None for place in places):
            return None
        form = "/".join(segment.join_format() for segment in segments)
        longest = min(
            (limit - len(segment.fixed) - _SPARE) // len(segment.places) for segment in segments if segment.places
        )
        return cls(form, tuple(place.cut or slice(None) for place in places), longest)

    def make(self, invoice_id: str) -> str | None:
        """The key of `invoice_id`; None if it has to be made with more care."""
        if len(invoice_id) > self.longest or not _is_unchanged(invoice_id):
            return None
        parts = tuple([invoice_id[cut] for cut in self.cuts])
        key = self.form % parts
        return None if "" in parts or _has_reserved_name(key) else key


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """How a key is made of an invoice ID and the other columns of its row: `{id[:2]}/{id}.pdf`.

    `{id}` and `{fields[NAME]}` stand for the row's values, a slice after them for a part of it, `{{` and `}}` for a
    brace. Where the whole `{id}` is in the template, two IDs never have one key, nor keys that differ only in case or
    Unicode normal form. Where it is not, they may.
    """

    text: str
    _segments: tuple[_Segment, ...]
    _limit: int
    _always_marked: bool
    _quick: "_QuickKey | None"

    @classmethod
    def parse(cls, template: str) -> Self:
        """The template written as `template`.

        Raises:
            UsageError: it could not make safe keys; the message names the place and the fix.
        """
        segments = tuple(_split(template))
        for segment in segments:
            _check(template, segment)
        if segments[0].fixed.lower() in _OWN_NAMES and not segments[0].places:
            raise _unusable(template, f"{segments[0].fixed!r} is where bulkfetch keeps its own files; use another name")
        filled = [segment for segment in segments if segment.places]
        if not filled:
            raise _unusable(template, "every invoice would have the same key; put {id} into it")
        fixed = sum(segment.room for segment in segments if not segment.places) + len(segments) - 1
        limit = min(SEGMENT_LIMIT, (KEY_LIMIT - fixed) // len(filled))
        if any(segment.room > (limit if segment.places else SEGMENT_LIMIT) for segment in segments):
            raise _unusable(template, f"it leaves no room for the values in {KEY_LIMIT} bytes; shorten it")
        whole = _Placeholder(None, None)
        # Two values in one segment can change places with the text between them: then only the digest keeps IDs apart.
        mixed = any(whole in segment.places for segment in filled) and not any(
            segment.places == [whole] for segment in filled
        )
        return cls(template, segments, limit, mixed, None if mixed else _QuickKey.of(segments, limit))

    @property
    def injective(self) -> bool:
        """Whether two IDs never have one key: then what is under a key can only be that one invoice."""
        return any(_Placeholder(None, None) in segment.places for segment in self._segments)

    def key_for(self, invoice_id: str, fields: Mapping[str, str]) -> str:
        """The key of `invoice_id`: ASCII, at most 1000 bytes, segments of at most 255.

        Raises:
            PermanentError: `invalid_row`, the row has no value for a field that the key needs.
        """
        if self._quick is not None and (key := self._quick.make(invoice_id)) is not None:
            return key
        values = [[place.value(invoice_id, fields) for place in segment.places] for segment in self._segments]
        names = [segment.encode(parts, self._limit) for segment, parts in zip(self._segments, values, strict=True)]
        if self._always_marked or names != values or any(_UPPER.search(name) for part in names for name in part):
            last = next(part for part in reversed(names) if part)
            last[-1] += _suffix([invoice_id, *(value for part in values for value in part)])
        return "/".join(segment.join(part) for segment, part in zip(self._segments, names, strict=True))


def _split(template: str) -> list[_Segment]:
    segments: list[list[str | _Placeholder]] = [[]]
    for token in _TOKEN.finditer(template):
        text = token[0]
        if text in {"{", "}"}:
            raise _unusable(
                template, f"the {text!r} at character {token.start() + 1} has no partner; double it if meant"
            )
        if token[1] is not None:
            segments[-1].append(_placeholder(template, token))
            continue
        literal = text[0] if text in {"{{", "}}"} else text
        if text == literal and (bad := _BAD_LITERAL.search(literal)):
            place = token.start() + bad.start() + 1
            raise _unusable(
                template,
                f"{printable(bad[0])!r} at character {place} is not safe in a file name; "
                "use A-Z a-z 0-9 . _ - + = @ ( )",
            )
        head, *others = literal.split("/")
        segments[-1].append(head)
        segments.extend([other] for other in others)
    return [_Segment(tuple(part for part in parts if part)) for parts in segments]


def _placeholder(template: str, token: re.Match[str]) -> _Placeholder:
    found = _PLACEHOLDER.fullmatch(token[1])
    if found is None:
        raise _unusable(
            template,
            f"{printable(token[0], 80)} at character {token.start() + 1} is not known; "
            "use {id}, {fields[NAME]}, or a part of them such as {id[:2]}",
        )
    start, stop = (int(end) if end else None for end in found.group(3, 4))
    return _Placeholder(found["column"], slice(start, stop) if found["cut"] else None)


def _check(template: str, segment: _Segment) -> None:
    if not segment.parts:
        raise _unusable(
            template, "a part between slashes is empty; the key is relative, without // and without a / at its ends"
        )
    first, last = segment.parts[0], segment.parts[-1]
    if segment.fixed == ".." and not segment.places:
        raise _unusable(template, "'..' would leave the archive; remove it")
    if isinstance(first, str) and first[0] in ". ":
        raise _unusable(template, f"{first!r} begins with a dot or space; let every part begin with something else")
    if isinstance(last, str) and last[-1] in ". ":
        raise _unusable(template, f"{last!r} ends with a dot or space; let every part end with something else")
    if isinstance(first, str) and (not segment.places or "." in first) and _stem(first) in _WINDOWS_NAMES:
        raise _unusable(template, f"{first!r} is a reserved name on Windows; use another")


def _unusable(template: str, problem: str) -> UsageError:
    return UsageError(f"key template {printable(template, 120)!r}: {problem}")


def _escape(value: str) -> str:
    if not value:
        return "_"
    text = _ESCAPED.sub(lambda found: "".join(f"%{byte:02x}" for byte in _utf8(found[0])), value)
    if text.startswith("."):
        text = f"%2e{text[1:]}"
    return f"{text[:-1]}%2e" if text.endswith(".") else text


def _shorten(name: str, size: int) -> str:
    if len(name) <= size:
        return name
    cut = name[:size]
    if "%" in cut[-2:]:
        cut = cut[: cut.rindex("%")]
    return cut.rstrip(".")


def _is_reserved(segment: str) -> bool:
    return segment.lower() in _OWN_NAMES or _stem(segment) in _WINDOWS_NAMES


def _stem(segment: str) -> str:
    return segment.partition(".")[0].rstrip(" ").lower()


def _suffix(values: Iterable[str]) -> str:
    return "~" + hashlib.sha256(_utf8("\0".join(values))).hexdigest()[:_DIGEST_CHARS]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
