"""Which texts are invoice IDs."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.keys import ID_LIMIT, check_invoice_id


@pytest.mark.parametrize(
    "text",
    [
        "4f2c3b1a-0000-4000-8000-000000000000",
        "RE-2024-00001",
        "01HV3Z9QK8J7M6N5P4R3S2T1W0",
        "7",
        "-1",
        ".hidden",
        "...",
        "con",
        "RE_2024+1@x=(y)",
        "Rechnung№7",
        "é",
        "é",
        "請求書",
        "x" * ID_LIMIT,
        "\N{PILE OF POO}" * ID_LIMIT,
    ],
)
def test_usable(text):
    """IDs of every shape that bills have are accepted as they are."""
    assert check_invoice_id(text) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        ("x" * (ID_LIMIT + 1), "201 characters"),
        (".", "'.'"),
        ("..", "'..'"),
        ("RE 1", "U+0020"),
        ("RE\N{NO-BREAK SPACE}1", "U+00A0"),
        ("RE\N{ZERO WIDTH SPACE}1", "U+200B"),
        ("\N{ZERO WIDTH NO-BREAK SPACE}RE", "U+FEFF"),
        ("RE\N{RIGHT-TO-LEFT OVERRIDE}1", "U+202E"),
        ("RE\N{LINE SEPARATOR}1", "U+2028"),
        ("RE\t1", "U+0009"),
        ("RE-1\n", "U+000A"),
        ("RE\x001", "U+0000"),
        ("RE\x1b[31m", "U+001B"),
        ("RE\x851", "U+0085"),
        ("RE\ud8001", "U+D800"),
        *((f"RE{char}1", f"U+{ord(char):04X}") for char in "/\\?#%,;\"'"),
    ],
)
def test_unusable_is_named(text, named):
    """What is wrong with an ID is said with its code point, and what is allowed, without repeating it raw."""
    problem = check_invoice_id(text)
    assert problem is not None
    assert named in problem
    assert "1 to 200 characters" in problem
    assert problem.isprintable()


@given(st.text(min_size=1, max_size=ID_LIMIT + 2))
def test_grammar(text):
    """An ID is usable exactly if the grammar says so, whatever shortcut the check takes."""
    invisible = any(char.isspace() or unicodedata.category(char) in {"Cc", "Cf", "Cs"} for char in text)
    usable = len(text) <= ID_LIMIT and not invisible and not set(text) & set("/\\?#%,;\"'") and text not in {".", ".."}
    assert (check_invoice_id(text) is None) == usable
