"""Foreign text is shown in a way that steers no terminal and forges no line."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.text import MESSAGE_LIMIT, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Rechnung nicht gefunden: Größe", "Rechnung nicht gefunden: Größe"),
        ("a\r\nb", "a\\u000d\\u000ab"),
        ("\x1b[31mred\x1b]0;title\x07", "\\u001b[31mred\\u001b]0;title\\u0007"),
        ("\x9b31m", "\\u009b31m"),
        ("\x7f", "\\u007f"),
        ("in\u202evoice", "in\\u202evoice"),
        ("in\u200bvoice", "in\\u200bvoice"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\u0085d"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_is_escaped(text, shown):
    """Controls, direction overrides, invisible characters and lone surrogates become escapes; words stay words."""
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=[]), max_size=600), st.integers(1, MESSAGE_LIMIT))
def test_safe_on_anything(text, limit):
    """The result is never longer than the limit, can be encoded, and holds no character that is not printed."""
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.encode("utf-8")[:1] or not text
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_cut_is_marked():
    """What is cut ends in an ellipsis, and what just fits does not."""
    assert printable("x" * 500) == "x" * 500
    assert printable("x" * 501) == "x" * 499 + "…"
