"""The sandbox's PDFs and the book they come from."""

import re
from itertools import islice

import pypdfium2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.sandbox import Document, InvoiceBook, Kind
from bulkfetch.sandbox.pdf import render

UUID_V4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TITLES = {Kind.INVOICE: "Rechnung", Kind.CREDIT_NOTE: "Gutschrift", Kind.CANCELLATION: "Stornorechnung"}


def documents(count: int = 200, **settings: float) -> list[Document]:
    book = InvoiceBook(count, 7, **settings)
    return [document for document in map(book.find, book.ids()) if document is not None]


@pytest.mark.parametrize("kind", Kind)
def test_pdf_opens_and_shows_its_document(kind):
    """A PDF parses, has one page with title, number and umlauts, renders to more than white, and has an attachment."""
    document = next(document for document in documents() if document.kind is kind)
    with pypdfium2.PdfDocument(render(document)) as pdf:
        assert len(pdf) == 1
        text = pdf[0].get_textpage().get_text_range()
        assert f"{TITLES[kind]} {document.number}" in text
        assert "für" in text
        assert "€" in text
        assert len(set(bytes(pdf[0].render(scale=0.5).buffer))) > 10
        assert pdf.count_attachments() == 1
        assert len(pdf.get_attachment(0).get_data()) > document.size - 8192


def test_pdf_is_deterministic_and_differs_by_document():
    """The same document gives the same bytes, another one gives others."""
    first, second = documents(2)
    assert render(first) == render(first)
    assert render(first) != render(second)


@given(st.integers(6_000, 200_000), st.integers(0, 10**9 - 1))
def test_pdf_has_the_documents_size(size, index):
    """A PDF is exactly as long as its document says, and its cross-references point at the objects."""
    book = InvoiceBook(10**9, 1, size=size)
    document = book.find(book.invoice_id(index))
    pdf = render(document)
    assert len(pdf) == document.size or document.size < 6_000
    start = int(re.search(rb"startxref\n(\d+)\n%%EOF\n\Z", pdf)[1])
    entries = re.findall(rb"(\d{10}) 00000 n \n", pdf[start:])
    assert [pdf[int(at) :].split(b" ", 1)[0] for at in entries] == [b"%d" % number for number in range(1, 9)]


def test_tiny_pdf_is_whole():
    """A size below that of the page gives a PDF that opens all the same."""
    with pypdfium2.PdfDocument(render(documents(1, size=0)[0])) as pdf:
        assert len(pdf) == 1


@given(st.integers(0, 10**9 - 1), st.integers())
def test_book_finds_what_it_issued(index, seed):
    """Any ID of a book of a billion looks like a UUID, is found in it, and is unknown under another seed."""
    book = InvoiceBook(10**9, seed)
    invoice_id = book.invoice_id(index)
    assert UUID_V4.fullmatch(invoice_id)
    assert book.find(invoice_id).invoice_id == invoice_id
    assert InvoiceBook(10**9, seed + 1).find(invoice_id) is None


def test_book_knows_only_the_exact_id():
    """Another spelling, a changed digit, or an index past the end names nothing."""
    book = InvoiceBook(3, 0)
    issued = book.invoice_id(1)
    changed = ("1" if issued[0] == "0" else "0") + issued[1:]
    for unknown in (
        issued.upper(),
        changed,
        issued + " ",
        issued.replace("-", ""),
        book.invoice_id(3),
        "",
        "ä",
        "../x",
    ):
        assert book.find(unknown) is None


def test_book_does_not_depend_on_its_length():
    """A longer book begins with the same documents, so that their PDFs stay the same."""
    short, long = InvoiceBook(10, 3), InvoiceBook(10**9, 3)
    assert [short.find(each) for each in short.ids()] == [long.find(each) for each in islice(long.ids(), 10)]


def test_book_numbers_are_unique_and_kinds_mixed():
    """IDs and numbers never repeat, all three kinds occur, and sizes lie within a quarter of the mean."""
    found = documents(2000, size=40_000)
    assert len({document.invoice_id for document in found}) == len({document.number for document in found}) == 2000
    assert {document.kind for document in found} == set(Kind)
    assert all(30_000 <= document.size <= 50_000 for document in found)
    assert not any(document.draft for document in found)


def test_book_shares():
    """Drafts and missing IDs make up about the share that was asked for, and are always the same ones."""
    found = documents(2000, drafts=0.2, missing=0.1)
    assert 0.87 < len(found) / 2000 < 0.93
    assert 0.16 < sum(document.draft for document in found) / len(found) < 0.24
    assert found == documents(2000, drafts=0.2, missing=0.1)
