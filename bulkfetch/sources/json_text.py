"""JSON as lists and messages hold it: numbers keep the digits that were written."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec


class Written(str):
    """A number that is not whole, as it was written: 1.10 is not 1.1 on an invoice."""

    __slots__ = ()


_decode = msgspec.json.Decoder(float_hook=Written).decode


def parse_json(data: bytes) -> Any:
    """What `data`, in UTF-8, says. Numbers that are not whole are `Written`.

    A number of any size, and half a surrogate pair in a text, are taken, for they may be none of the reader's business.

    Raises:
        ValueError: this is no JSON; the message says where.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        problem = str(error)
    try:
        return json.loads(data.decode(), parse_float=Written, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError(problem) from None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def has_twice(data: bytes, name: str) -> bool:
    """Whether the object that `data` is has two members `name`, of which a reader may take either."""
    if data.count(json.dumps(name).encode()) < 2:
        return False
    return [member for member, _ in json.loads(data.decode(), object_pairs_hook=list)].count(name) > 1


def id_text(value: object) -> str | None:
    """The ID that a member says, as a text or as a whole number; None if it is anything else."""
    if type(value) is int:
        return str(value)
    return value if isinstance(value, str) and not isinstance(value, Written) else None


def fields_of(members: Mapping[str, object], id_name: str | None) -> dict[str, str]:
    """The scalar `members` beside the one with the ID, as texts. Null, lists and objects are left out, as nothing a
    key could be made of."""
    return {name: _text(value) for name, value in members.items() if name != id_name and isinstance(value, str | int)}


def _text(value: str | int) -> str:
    if isinstance(value, str):
        # Half a surrogate pair could not be written down again.
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    return str(value).lower() if isinstance(value, bool) else str(value)
