"""Small PDFs of every build, made by hand: each opens in a reader and has one page."""

import hashlib
import re
import zlib
from collections.abc import Mapping

HEADER = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
XML = b"<?xml version='1.0' encoding='UTF-8'?>\n<rsm:CrossIndustryInvoice>" + "Müller".encode() + b"</rsm>\n"

_PAGE = (
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F %d 0 R >> >> /Contents %d 0 R >>"
)


def pdf_bytes(size: int = 0, text: str = "Invoice 1") -> bytes:
    """A PDF that shows `text`, of exactly `size` bytes unless that is too few; a comment fills it up."""
    objects = _page(text)
    missing = size - len(_written(objects))
    return _written(objects, b"%" + (b"0123456789abcdef" * missing)[: missing - 2] + b"\n" if missing >= 2 else b"")


def updated(pdf: bytes) -> bytes:
    """`pdf` with another revision appended, as by a signature or a filled form."""
    document = pdf + b"90 0 obj\n<< /Producer (another program) >>\nendobj\n"
    root = re.findall(rb"/Root \d+ 0 R", pdf)[0]
    (previous,) = re.findall(rb"startxref\n(\d+)\n%%EOF\n\Z", pdf)
    table = b"xref\n90 1\n%010d 00000 n \n" % len(pdf)
    trailer = b"trailer\n<< /Size 91 %b /Info 90 0 R /Prev %b >>\n" % (root, previous)
    return document + table + trailer + b"startxref\n%d\n%%%%EOF\n" % len(document)


def with_invoice_data() -> bytes:
    """A hybrid invoice (ZUGFeRD, Factur-X): the page, and the same invoice as XML in an attachment."""
    return _written(
        _page()
        | {
            1: b"<< /Type /Catalog /Pages 2 0 R /AF [6 0 R] /Names << /EmbeddedFiles << /Names [(x) 6 0 R] >> >> >>",
            6: b"<< /Type /Filespec /AFRelationship /Alternative /F (factur-x.xml) /EF << /F 7 0 R >> >>",
            7: _stream(XML, b"/Type /EmbeddedFile /Subtype /text#2Fxml"),
        }
    )


def with_xref_stream() -> bytes:
    """A PDF whose cross-references are a compressed stream, as from version 1.5 on."""
    document, places = _body(_page())
    entries = [(0, 0, 65535)] + [(1, place, 0) for place in [*places.values(), len(document)]]
    table = zlib.compress(b"".join(kind.to_bytes(1) + at.to_bytes(3) + more.to_bytes(2) for kind, at, more in entries))
    keys = b"/Type /XRef /Filter /FlateDecode /W [1 3 2] /Size %d /Root 1 0 R" % len(entries)
    last = b"%d 0 obj\n%b\nendobj\n" % (len(places) + 1, _stream(table, keys))
    return document + last + b"startxref\n%d\n%%%%EOF\n" % len(document)


def encrypted() -> bytes:
    """A PDF that opens without a password, but is encrypted (40 bits, RC4)."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    file_id = hashlib.md5(b"an invoice").digest()
    owner = _rc4(hashlib.md5(padding).digest()[:5], padding)
    key = hashlib.md5(padding + owner + b"\xfc\xff\xff\xff" + file_id).digest()[:5]
    content = _rc4(hashlib.md5(key + b"\x04\0\0\0\0").digest()[:10], _content("Invoice 1"))
    rights = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >>" % (
        owner.hex().encode(),
        _rc4(key, padding).hex().encode(),
    )
    names = b"/Encrypt 6 0 R /ID [<%b> <%b>]" % ((file_id.hex().encode(),) * 2)
    return _written(_page() | {4: _stream(content), 6: rights}, keys=names)


def linearized() -> bytes:
    """A PDF for a "fast web view": it begins with a cross-reference table and an `%%EOF` for the first page's objects.

    Object 4 tells the length, 5 to 8 are the first page's, 1 to 3 come last.
    """
    front = {
        5: b"<< /Type /Catalog /Pages 2 0 R >>",
        6: _stream(bytes(64), b"/S 36"),
        7: _PAGE % (3, 8),
        8: _stream(_content("Invoice 1")),
    }
    rest = {
        1: b"<< /Producer (by hand) >>",
        2: b"<< /Type /Pages /Kids [7 0 R] /Count 1 >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    length = main = first = 0
    places: dict[int, int] = {}
    pdf = b""
    # Every number has a fixed width, so the places are right from the second time on.
    for _ in range(2):
        pdf = HEADER
        places[4] = len(pdf)
        pdf += b"4 0 obj\n<< /Linearized 1 /L %010d /H [%010d %010d] /O 7 /E %010d /N 1 /T %010d >>\nendobj\n" % (
            length,
            places.get(6, 0),
            places.get(7, 0) - places.get(6, 0),
            places.get(1, 0),
            main,
        )
        first = len(pdf)
        pdf += b"xref\n4 5\n" + b"".join(b"%010d 00000 n \n" % places.get(number, 0) for number in range(4, 9))
        pdf += b"trailer\n<< /Size 9 /Root 5 0 R /Info 1 0 R /Prev %010d >>\nstartxref\n0\n%%%%EOF\n" % main
        for number, value in [*front.items(), *rest.items()]:
            places[number] = len(pdf)
            pdf += b"%d 0 obj\n%b\nendobj\n" % (number, value)
        main = len(pdf)
        pdf += b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % places[n] for n in (1, 2, 3))
        pdf += b"trailer\n<< /Size 4 >>\nstartxref\n%010d\n%%%%EOF\n" % first
        length = len(pdf)
    return pdf


def _page(text: str = "Invoice 1") -> dict[int, bytes]:
    return {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: _PAGE % (5, 4),
        4: _stream(zlib.compress(_content(text)), b"/Filter /FlateDecode"),
        5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }


def _content(text: str) -> bytes:
    return f"BT /F 18 Tf 72 700 Td ({text}) Tj ET".encode("cp1252")


def _stream(data: bytes, keys: bytes = b"") -> bytes:
    return b"<< %b /Length %d >>\nstream\n%b\nendstream" % (keys, len(data), data)


def _body(objects: Mapping[int, bytes]) -> tuple[bytes, dict[int, int]]:
    document, places = HEADER, {}
    for number, value in objects.items():
        places[number] = len(document)
        document += b"%d 0 obj\n%b\nendobj\n" % (number, value)
    return document, places


def _written(objects: Mapping[int, bytes], filling: bytes = b"", keys: bytes = b"") -> bytes:
    document, places = _body(objects)
    document += filling
    count = len(places) + 1
    table = b"xref\n0 %d\n0000000000 65535 f \n" % count
    table += b"".join(b"%010d 00000 n \n" % place for place in places.values())
    trailer = b"trailer\n<< /Size %d /Root 1 0 R %b >>\n" % (count, keys)
    return document + table + trailer + b"startxref\n%010d\n%%%%EOF\n" % len(document)


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
