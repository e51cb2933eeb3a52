"""The template that makes a key of an invoice's row."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from bulkfetch.keys import names
from bulkfetch.keys.dates import check_date_format
from bulkfetch.keys.invoice_id import ID_LIMIT
from bulkfetch.keys.names import KEY_LIMIT, SEGMENT_LIMIT
from bulkfetch.keys.segments import WHOLE_ID, DatePart, Place, Segment
from bulkfetch.keys.syntax import segments_of, unusable
from bulkfetch.text import printable

# No name of a Windows device is as long, and the archive's own names have neither digit, "-" nor "_".
_is_always_harmless = re.compile(rf"(?=[A-Za-z]*[0-9_-])[A-Za-z0-9_-]{{5,{ID_LIMIT}}}").fullmatch


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """How a key is made of an invoice ID and the other columns of its row: `{id[:2]}/{id}.pdf`.

    `{id}` and `{fields[NAME]}` stand for the row's values, a slice after them for a part of it, and
    `{fields[NAME]:%Y/%m}` for parts of the date in it. `{{` and `}}` are a brace.

    Attributes:
        text: the template as it was written.
        columns: the names of the columns that the template needs, each once.
        injective: whether `{id}` is all that changes between two of the template's slashes. Then two IDs never have one
            key, and what is under a key can only be that one invoice; on a disk that is blind to case or normal form
            they may still meet (`fold`).
    """

    text: str
    columns: tuple[str, ...]
    injective: bool
    _segments: tuple[Segment, ...]
    _form: str
    _places: tuple[Place, ...]
    _limit: int
    _around_id: tuple[str, str] | None

    @classmethod
    def parse(cls, template: str, date_format: str = "") -> Self:
        """The template written as `template`.

        Args:
            date_format: how the input writes dates, as for strptime; "" takes what can be read in one way only.

        Raises:
            UsageError: it could not make safe keys, or `date_format` cannot be used; the message names the place and
                the fix.
        """
        segments = tuple(segments_of(template, date_format))
        if not segments[0].places and names.is_reserved(segments[0].fixed):
            raise unusable(template, f"{segments[0].fixed!r} is where bulkfetch keeps its own files; use another name")
        places = tuple(place for segment in segments for place in segment.places)
        if not places:
            raise unusable(template, "every invoice would have the same key; put {id} into it")
        check_date_format(date_format, [place.code for place in places if isinstance(place, DatePart)])
        limit = _limit(template, segments)
        return cls(
            text=template,
            columns=tuple(dict.fromkeys(place.column for place in places if place.column is not None)),
            injective=any(segment.places == (WHOLE_ID,) for segment in segments),
            _segments=segments,
            _form="/".join(segment.form for segment in segments),
            _places=places,
            _limit=limit,
            _around_id=_around_id(segments, limit),
        )

    def key_for(self, invoice_id: str, fields: Mapping[str, str]) -> str:
        """The key of `invoice_id`: in NFC, at most 1000 bytes of UTF-8, segments of at most 255.

        Where a value had to be changed for it, a digest of the values is part of the last name that has any.

        Raises:
            PermanentError: `invalid_row`, the row has no value for a field that the key needs, or no date.
        """
        if self._around_id and _is_always_harmless(invoice_id):
            before, after = self._around_id
            return f"{before}{invoice_id}{after}"
        return self._key(invoice_id, fields, marked=False)

    def alternative(self, invoice_id: str, fields: Mapping[str, str]) -> str:
        """The key to take where another invoice has the one of `key_for`: with a digest in any case. Two IDs never have
        one, not even on a disk that is blind to case and normal form.

        Raises:
            PermanentError: as `key_for`.
        """
        return self._key(invoice_id, fields, marked=True)

    def gives(self, key: str, invoice_id: str, fields: Mapping[str, str]) -> bool:
        """Whether `key` is one of `key_for` and `alternative`, in whatever spelling.

        Raises:
            PermanentError: as `key_for`.
        """
        if self._around_id:
            before, after = self._around_id
            if key == f"{before}{invoice_id}{after}":
                return True
        # Nearly every key is simply what is written in the row, which is far quicker to compare than to make safe.
        elif key == self._form.format(*[place.of(invoice_id, fields) for place in self._places]):
            return True
        made = (self.key_for(invoice_id, fields), self.alternative(invoice_id, fields))
        return names.fold(key) in map(names.fold, made)

    def check_columns(self, present: Iterable[str]) -> None:
        """Let an input pass whose columns, that of the ID left out, are `present`.

        Raises:
            UsageError: the template needs one that is not there; the message names the nearest.
        """
        there = list(present)
        for column in self.columns:
            if column not in there:
                near = difflib.get_close_matches(column, there, n=1)
                meant = f"; did you mean {printable(near[0], 80)!r}?" if near else "."
                listed = printable(", ".join(there) or "none", 200)
                raise unusable(
                    self.text,
                    f"no column is called {printable(column, 80)!r}{meant} Besides that of the ID, which is {{id}}, "
                    f"there are: {listed}",
                )

    def _key(self, invoice_id: str, fields: Mapping[str, str], *, marked: bool) -> str:
        values = [place.of(invoice_id, fields) for place in self._places]
        plain = self._form.format(*values)
        if not marked and self._is_harmless(plain, values):
            return plain
        parts: list[str] = []
        last = taken = 0
        for index, segment in enumerate(self._segments):
            if not segment.places:
                parts.append(segment.fixed)
                continue
            parts.append(segment.name(values[taken : taken + len(segment.places)], self._limit))
            taken += len(segment.places)
            last = index
        if marked or "/".join(parts) != plain:
            parts[last] = names.mark(parts[last], [invoice_id, *values])
        return "/".join(parts)

    def _is_harmless(self, key: str, values: Sequence[str]) -> bool:
        """Whether `key`, of `values` as they are, can surely stay so; False asks for a closer look."""
        return (
            all(values)
            and names.is_harmless(key)
            and key.count("/") == len(self._segments) - 1
            and len(key.encode()) <= self._limit - names.SPARE
        )


def _limit(template: str, segments: Sequence[Segment]) -> int:
    """Bytes that each segment with values may have."""
    filled = [segment for segment in segments if segment.places]
    fixed = sum(segment.least for segment in segments if not segment.places) + len(segments) - 1
    limit = min(SEGMENT_LIMIT, (KEY_LIMIT - fixed) // len(filled))
    if any(segment.least > (limit if segment.places else SEGMENT_LIMIT) for segment in segments):
        raise unusable(template, f"it leaves no room for the values in {KEY_LIMIT} bytes; shorten it")
    return limit


def _around_id(segments: Sequence[Segment], limit: int) -> tuple[str, str] | None:
    """What stands before and behind the ID, where nothing else changes and every plain ID has room."""
    filled = [segment for segment in segments if segment.places]
    if len(filled) != 1 or filled[0].places != (WHOLE_ID,):
        return None
    if len(filled[0].fixed.encode()) + names.SPARE + ID_LIMIT > limit:
        return None
    # No literal holds a NUL.
    before, after = "/".join(segment.form for segment in segments).format("\0").split("\0")
    return before, after
