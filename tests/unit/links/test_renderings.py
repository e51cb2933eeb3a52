"""Two downloads whose end nothing marks."""

import pytest
from support.pdfs import pdf_bytes, updated

from bulkfetch.links.renderings import MOST_WITNESSES, Rendering, Witnesses


def rendering(body, size=1 << 20):
    made = Rendering()
    for start in range(0, len(body), size):
        made.take(body[start : start + size])
    return made


FIRST, SECOND = pdf_bytes(3000, "one"), pdf_bytes(3010, "two")


@pytest.mark.parametrize("size", [1, 5, 9, 13, 1 << 20])
def test_whole_renderings_confirm_each_other(size):
    """However the bytes are cut: equal ones do, and whole PDFs with as many revisions."""
    assert rendering(FIRST, size).confirms(rendering(SECOND))
    assert rendering(updated(FIRST), size).confirms(rendering(updated(SECOND), size))
    assert rendering(b"no PDF", size).confirms(rendering(b"no PDF"))


@pytest.mark.parametrize("size", [1, 9, 1 << 20])
def test_a_cut_one_confirms_nothing(size):
    """Neither where the end is missing, nor where a whole revision or the last line end is."""
    assert not rendering(FIRST, size).confirms(rendering(FIRST[:-1], size))
    assert not rendering(FIRST[:-9], size).confirms(rendering(SECOND))
    assert not rendering(updated(FIRST), size).confirms(rendering(SECOND, size))


def test_witnesses_are_bounded():
    """The oldest is forgotten; what is no whole PDF, or of nobody, is not kept."""
    kept, whole = Witnesses(), rendering(FIRST)
    for number in range(MOST_WITNESSES + 1):
        kept.keep(str(number), whole)
    kept.keep(None, whole)
    kept.keep("cut", rendering(FIRST[:-9]))
    assert [kept.take(name) for name in ("0", "1", "1", "cut", None)] == [None, whole, None, None, None]
