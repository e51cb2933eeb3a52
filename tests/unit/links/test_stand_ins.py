"""What counts as a server's word in place of a document."""

import pytest
from support.pdfs import pdf_bytes

from bulkfetch.links.stand_ins import stand_in


@pytest.mark.parametrize(
    ("head", "content_type", "said"),
    [
        (b"", "application/pdf", "nothing"),
        (b'{"status": "pending"}', "application/pdf", "JSON"),
        (b'\xef\xbb\xbf\n [{"error": 1}]', None, "JSON"),
        (b'"%PDF-1.4 ... %%EOF"', None, "JSON"),
        (b"null", "application/json; charset=utf-8", "JSON"),
        (b"<!DOCTYPE html><html>", "application/pdf", "HTML"),
        (b"\r\n<HTML><body>%PDF-1.7</body>", None, "HTML"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<!DOCTYPE html>\n<html>", None, "HTML"),
        (b"Bitte warten", "text/html", "HTML"),
        (b"<?xml version='1.0'?><ubl:Invoice/>", "application/xml", None),
        (b"Bitte warten", "text/plain", None),
        (b"PK\x03\x04", "application/zip", None),
        (pdf_bytes()[:900], "text/html", None),
        (b"", None, "nothing"),
    ],
)
def test_what_came_in_place_of_a_document(head, content_type, said):
    """JSON and HTML by their bytes, or by their label where nothing is like a PDF."""
    assert stand_in(head, content_type) == said
