"""How a template is written, and which are refused: every error names the place and the fix."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from bulkfetch.errors import UsageError
from bulkfetch.keys import names
from bulkfetch.keys.dates import CODES
from bulkfetch.keys.segments import DatePart, Place, Segment, Value
from bulkfetch.text import printable

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[^{}]+|[{}]")
_PLACEHOLDER = re.compile(
    r"(?:id|fields\[(?P<column>[^\[\]]+)\])(?:(?P<cut>\[(-?[0-9]{1,4})?:(-?[0-9]{1,4})?\])|:(?P<date>.+))?", re.DOTALL
)
_CODE = re.compile(r"%.?", re.DOTALL)


def segments_of(template: str, date_format: str) -> Iterator[Segment]:
    """The segments of `template`, each checked; a date with slashes in its format makes several.

    Raises:
        UsageError: the template is not written as one is, or a segment could not be a safe name.
    """
    parts: list[str | Place] = []
    for part in _parts(template, date_format):
        if part == "/":
            yield _segment(template, parts)
            parts = []
        else:
            parts.append(part)
    yield _segment(template, parts)


def _parts(template: str, date_format: str) -> Iterator[str | Place]:
    """What `template` is made of: texts, slashes apart, and places for values."""
    for token in _TOKEN.finditer(template):
        text, at = token[0], token.start() + 1
        if text in {"{", "}"}:
            raise unusable(template, f"the {text!r} at character {at} has no partner; double it if meant")
        if text in {"{{", "}}"}:
            yield text[0]
        elif token[1] is None:
            yield from _literal(template, text, at)
        else:
            yield from _places(template, text, at, date_format)


def _places(template: str, text: str, at: int, date_format: str) -> Iterator[str | Place]:
    """What the placeholder `text`, at character `at`, stands for: one place, or one for each part of a date."""
    found = _PLACEHOLDER.fullmatch(text, 1, len(text) - 1)
    if found is None or (found["date"] and not found["column"]):
        raise unusable(
            template,
            f"{printable(text, 80)} at character {at} is not known; use {{id}}, {{fields[NAME]}}, a part of them "
            "such as {id[:2]}, or of a date, {fields[NAME]:%Y/%m}",
        )
    if not found["date"]:
        start, stop = (int(end) if end else None for end in found.group(3, 4))
        yield Value(found["column"], slice(start, stop) if found["cut"] else None)
        return
    column, shape, at = found["column"], found["date"], at + found.start("date")
    end = 0
    for code in _CODE.finditer(shape):
        if code[0] not in CODES:
            raise unusable(
                template,
                f"{printable(code[0])!r} at character {at + code.start()} is no part of a date that a key can have; "
                f"use {' '.join(CODES)}",
            )
        yield from _literal(template, shape[end : code.start()], at + end)
        yield DatePart(column, code[0], date_format)
        end = code.end()
    if not end:
        raise unusable(template, f"{printable(text, 80)} names no part of the date; use {' '.join(CODES)}, as in %Y/%m")
    yield from _literal(template, shape[end:], at + end)


def _literal(template: str, text: str, at: int) -> Iterator[str]:
    """The text from character `at` on, slashes apart."""
    for index, piece in enumerate(text.split("/")):
        if index:
            yield "/"
        bad = names.first_escaped(piece)
        if bad is not None:
            raise unusable(
                template,
                f"{printable(piece[bad])!r} at character {at + bad} is not safe in a file name; use letters, digits, "
                f"blanks and {' '.join(names.SIGNS)}",
            )
        if piece:
            yield unicodedata.normalize("NFC", piece)
        at += len(piece) + 1


def _segment(template: str, parts: Sequence[str | Place]) -> Segment:
    if not parts:
        raise unusable(
            template, "a part between slashes is empty; the key is relative, without // and without a / at its ends"
        )
    form = "".join(part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else "{}" for part in parts)
    segment = Segment(form, tuple(part for part in parts if not isinstance(part, str)))
    _check_ends(template, parts[0], parts[-1], segment)
    return segment


def _check_ends(template: str, first: str | Place, last: str | Place, segment: Segment) -> None:
    if segment.fixed == ".." and not segment.places:
        raise unusable(template, "'..' would leave the archive; remove it")
    if isinstance(first, str) and first[0] in ". ":
        raise unusable(template, f"{first!r} begins with a dot or space; let every part begin with something else")
    if isinstance(last, str) and last[-1] in ". ":
        raise unusable(template, f"{last!r} ends with a dot or space; let every part end with something else")
    if isinstance(first, str) and (not segment.places or "." in first) and names.is_device(first):
        raise unusable(template, f"{first!r} is a reserved name on Windows; use another")


def unusable(template: str, problem: str) -> UsageError:
    """The error that refuses `template` for `problem`."""
    return UsageError(f"key template {printable(template, 120)!r}: {problem}")
