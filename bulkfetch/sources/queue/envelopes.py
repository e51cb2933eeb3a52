"""Where a message holds its invoice: by itself, in the envelope of an event, or where a person says."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from bulkfetch.sources.column_names import DEFAULT_COLUMNS, find_column
from bulkfetch.sources.json_text import fields_of, id_text, parse_json
from bulkfetch.text import printable

DEEPEST = 5
"""How many envelopes may be in each other: a rule of EventBridge to a topic of SNS to a queue makes two."""

_FIX = "name the place of the invoice ID with id_at in [source]"
_CONTENTS = frozenset({"body", "data", "detail", "event", "message", "payload", "record", "records"})


def open_message(text: str, id_at: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The invoice ID that a message's `text` names, and the fields beside it.

    Without `id_at`, paths such as `data.invoice.id` of which the first that is there counts, a text is the ID itself,
    and an object has it as `find_column` finds it. The envelopes of CloudEvents, SNS and EventBridge are opened. An
    object that may be another envelope is not guessed at: its `id` could be the event's.

    Raises:
        ValueError: it names none for certain; the message says why, and the fix.
    """
    value = _parsed(text)
    if id_at:
        return _at_paths(value, id_at)
    for _ in range(DEEPEST):
        inner = _inside(value)
        if inner is None:
            break
        value = inner
    if isinstance(value, dict):
        return _of_object(value)
    invoice_id = id_text(value)
    if invoice_id is None:
        raise ValueError(f"the message holds {_kind(value)}, which is no invoice ID; {_FIX}")
    return invoice_id, {}


def _parsed(text: str) -> Any:
    """What `text` says; a text that is no JSON object, list or string is taken as it is."""
    text = text.removeprefix("\ufeff").strip()
    if not text.startswith(("{", "[", '"')):
        return text
    return parse_json(text.encode("utf-8", "surrogatepass"))


def _inside(value: object) -> Any:
    """What is in the envelope `value`; None if it is none."""
    if not isinstance(value, dict):
        return None
    if "specversion" in value:  # CloudEvents; its `id` is the event's
        if isinstance(packed := value.get("data_base64"), str):
            return _parsed(_unpacked(packed))
        return _opened(value, "data", "CloudEvent")
    if "detail-type" in value:
        return _opened(value, "detail", "event of EventBridge")
    if "TopicArn" in value and "Message" in value:
        if value.get("Type") != "Notification":
            raise ValueError(f"the message is a {printable(str(value.get('Type')), 80)} of SNS, and no invoice")
        return _opened(value, "Message", "notification of SNS")
    return None


def _opened(envelope: Mapping[str, object], member: str, kind: str) -> Any:
    inner = envelope.get(member)
    if inner is None:
        raise ValueError(f"the message is a {kind} without {member}; {_FIX}")
    return _parsed(inner) if isinstance(inner, str) else inner


def _unpacked(packed: str) -> str:
    try:
        return base64.b64decode(packed, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("the message is a CloudEvent whose data_base64 is no text") from None


def _of_object(members: Mapping[str, object]) -> tuple[str, dict[str, str]]:
    fields = members.get("fields")
    inner = sorted(
        name for name, value in members.items() if name.lower() in _CONTENTS and isinstance(value, dict | list)
    )
    if inner:
        shown = printable(inner[0], 80)
        raise ValueError(f"the message may be an envelope around {shown}, and its own id the event's; {_FIX}")
    name = find_column(members, "")
    if name is None:
        listed = printable(", ".join(members) or "none", 200)
        raise ValueError(f"the message has no member {' or '.join(DEFAULT_COLUMNS)}, but {listed}; {_FIX}")
    both = [members[column] for column in DEFAULT_COLUMNS if column in members]
    if len(both) > 1 and both[0] != both[1]:
        raise ValueError(f"the message has two different members {' and '.join(DEFAULT_COLUMNS)}; {_FIX}")
    beside = fields_of(members, name)
    return _checked(members[name], name), {**beside, **(fields_of(fields, None) if isinstance(fields, dict) else {})}


def _at_paths(value: object, paths: Sequence[str]) -> tuple[str, dict[str, str]]:
    for path in paths:
        *way, name = path.split(".")
        holder = value
        for step in way:
            holder = _step(holder, step)
        found = _step(holder, name)
        if found is not None:
            return _checked(found, path), fields_of(_as_object(holder), name)
    raise ValueError(f"the message has nothing at {printable(', '.join(paths), 200)} (id_at in [source])")


def _step(value: object, name: str) -> object:
    return _as_object(value).get(name)


def _as_object(value: object) -> Mapping[str, object]:
    """`value` if it is an object, or the JSON text of one, as SNS and others pack what they are given."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parse_json(value.encode("utf-8", "surrogatepass"))
    return value if isinstance(value, dict) else {}


def _checked(value: object, place: str) -> str:
    invoice_id = id_text(value)
    if invoice_id is None:
        raise ValueError(f"{printable(place, 80)} is {_kind(value)}; an invoice ID is a string or a whole number")
    return invoice_id.strip()


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return "a number that is not whole"
