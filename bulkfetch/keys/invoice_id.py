"""What an invoice ID may look like."""

import re
import unicodedata

ID_LIMIT = 200

_ALLOWED_ID = (
    f"an invoice ID is 1 to {ID_LIMIT} characters without spaces, control or invisible characters, "
    "and without / \\ ? # % , ; \" '"
)
# U+FFFD is what is left of a letter that somebody could not decode.
_FORBIDDEN = frozenset("/\\?#%,;\"'\ufffd")
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})
is_plain_id = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{ID_LIMIT - 1}}}").fullmatch
"""Whether a text is what nearly every ID is: ASCII letters, digits and `._-`, with a letter or digit first."""


def check_invoice_id(text: str) -> str | None:
    """None if `text` is a usable invoice ID, else what is wrong with it, in words that are safe to show."""
    if is_plain_id(text):
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
