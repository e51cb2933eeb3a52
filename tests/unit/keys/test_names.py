"""What may stand in a name, and what meets on a disk that folds."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkfetch.keys import fold, names

TEXT = st.text(st.characters(), max_size=40)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("naïve Größe", "naïve Größe"),
        ("नमस्ते", "नमस्ते"),
        ("q\u0303", "q\u0303"),
        ("٣٤", "٣٤"),
        ("\u1112\u1161\u11ab", "한"),
        ("\u0301a", "%cc%81a"),
        ("1\u0301", "1%cc%81"),
        ("~\u0301", "%7e%cc%81"),
        ("\u1161", "%e1%85%a1"),
        ("a\ufe0f", "a%ef%b8%8f"),
        ("a\u115fb", "a%e1%85%9fb"),
        ("²½Ⅳ", "%c2%b2%c2%bd%e2%85%a3"),
        ("\u037e", "%3b"),
        ("a\tb\u2028", "a%09b%e2%80%a8"),
    ],
)
def test_what_stands_and_what_is_escaped(text, name):
    """Letters with their marks and digits stand; what is invisible, joins something else or has another meaning in a
    path or a shell is escaped."""
    assert names.escape(text) == name


@given(st.one_of(TEXT, st.text("conAUX1. ~/äÉ\u0301\u017f\u212a\n", min_size=1, max_size=8)))
@example("Müller & Söhne/RE-1.pdf")
def test_what_is_called_harmless_is_left_as_it_is(text):
    """The shortcut never lets a name pass that the closer look would change."""
    if names.is_harmless(text):
        assert "/".join(names.guard(names.escape(name)) for name in text.split("/")) == text
    else:
        assert text != "Müller & Söhne/RE-1.pdf"


@given(TEXT, st.integers(names.WIDEST, 60))
def test_a_cut_is_a_beginning_that_fits(text, size):
    """What is left of a text is its beginning, within the size, and all of it where that fits."""
    whole, cut = names.escape(text), names.shorten(text, size)
    assert whole.startswith(cut)
    assert 0 < len(cut.encode()) <= size
    assert cut == whole or len(whole.encode()) > size


@given(TEXT)
def test_what_differs_in_case_or_normal_form_folds_to_one(text):
    """Upper and lower case, NFC and NFD of a text meet, and folding twice changes nothing more."""
    folded = fold(text)
    assert fold(folded) == folded
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text)) == folded
    assert fold(text.lower()) == folded
    assert fold(text.casefold()) == folded


@pytest.mark.parametrize(
    ("one", "other"), [("RE-1.pdf", "re-1.PDF"), ("Straße", "STRASSE"), ("É/x", "e\u0301/X"), ("ΌΣΟΣ", "όσος")]
)
def test_names_that_meet(one, other):
    """What a disk that is blind to case and normal form takes for one name is equal once folded."""
    assert fold(one) == fold(other)


def test_names_that_do_not_meet():
    """Folding takes nothing together that no disk does."""
    keys = ["RE-1.pdf", "RE-2.pdf", "RE_1.pdf", "RE 1.pdf", "RE-1/.pdf", "RÉ-1.pdf", "RE-1~0.pdf"]
    assert len({fold(key) for key in keys}) == len(keys)
