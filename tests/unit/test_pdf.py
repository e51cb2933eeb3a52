"""What counts as a PDF, however it is cut into chunks."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.pdf import PDF_MARGIN, PdfCheck

HEAD, TAIL = b"%PDF-1.7\n", b"\n%%EOF\n"


def check(*chunks):
    checked = PdfCheck()
    for chunk in chunks:
        checked.take(chunk)
    return checked


@pytest.mark.parametrize(
    ("body", "flaw"),
    [
        (HEAD + TAIL, None),
        (b"x" * (PDF_MARGIN - 5) + b"%PDF-" + TAIL, None),
        (b"x" * (PDF_MARGIN - 4) + b"%PDF-" + TAIL, "%PDF-"),
        (HEAD + b"%%EOF" + b"\n" * (PDF_MARGIN - 5), None),
        (HEAD + b"%%EOF" + b"\n" * (PDF_MARGIN - 4), "%%EOF"),
        (b"<html>%%EOF</html>", "%PDF-"),
        (HEAD + b"x" * 5000, "%%EOF"),
        (b"", "empty"),
    ],
)
def test_both_ends_within_the_margin(body, flaw):
    """`%PDF-` must stand whole in the first 1,024 bytes and `%%EOF` whole in the last 1,024."""
    found = check(body).flaw()
    assert found is None if flaw is None else flaw in found


@given(st.integers(0, 3000), st.lists(st.integers(1, 1500), max_size=20))
def test_chunks_make_no_difference(padding, sizes):
    """Size, digest and verdict depend on the bytes alone, not on where the chunks are cut."""
    body = HEAD + b"x" * padding + TAIL
    chunks, rest = [], body
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    checked = check(*chunks, rest)
    assert (checked.size, checked.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert checked.digest().hex() == checked.sha256
    assert checked.flaw() is None


@given(st.integers(1, len(TAIL) + 2000))
def test_every_cut_through_the_end_shows(missing):
    """A document cut anywhere before its `%%EOF` is complete is not a PDF."""
    body = HEAD + b"x" * 3000 + TAIL
    assert (check(body[:-missing]).flaw() is None) == (missing == 1)
