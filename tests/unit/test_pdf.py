"""What counts as a PDF, however it is cut into chunks: real documents of every build, wrapped, converted and cut."""

import base64
import gzip
import hashlib
import io
import json
import quopri
import re
import sys
import tarfile
import zipfile

import pypdfium2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pdfs import encrypted, linearized, pdf_bytes, updated, with_invoice_data, with_xref_stream

from bulkfetch.pdf import PDF_MARGIN, PdfCheck
from bulkfetch.sandbox import InvoiceBook
from bulkfetch.sandbox.pdf import render

PLAIN = pdf_bytes()
BUILDS = {
    "plain": PLAIN,
    "updated": updated(PLAIN),
    "updated twice": updated(updated(PLAIN)),
    "hybrid invoice": with_invoice_data(),
    "cross-reference stream": with_xref_stream(),
    "encrypted": encrypted(),
    "linearized": linearized(),
    "linearized and updated": updated(linearized()),
}
BLANKS = b"\0 \n\r\t\f"

builds = st.sampled_from(list(BUILDS.values()))


def check(*chunks):
    checked = PdfCheck()
    for chunk in chunks:
        checked.take(chunk)
    return checked


def flaw(body):
    return check(body).flaw()


def pages(body):
    with pypdfium2.PdfDocument(body) as pdf:
        return len(pdf)


def by_pypdfium2():
    written = io.BytesIO()
    with pypdfium2.PdfDocument.new() as pdf:
        pdf.new_page(595, 842)
        pdf.save(written)
    return written.getvalue()


def by_the_sandbox():
    book = InvoiceBook(1, 7, size=150_000)
    return render(book.find(book.invoice_id(0)))


@pytest.mark.parametrize("body", BUILDS.values(), ids=BUILDS)
def test_every_build_is_a_pdf(body):
    """What a reader opens passes: revisions, encryption, attached XML, compressed cross-references, a fast web view."""
    assert pages(body) == 1
    assert flaw(body) is None


@pytest.mark.parametrize("make", [by_pypdfium2, by_the_sandbox])
def test_what_other_programs_write_is_a_pdf(make):
    """Documents that these tests did not make by hand pass as well."""
    assert pages(make()) == 1
    assert flaw(make()) is None


@pytest.mark.parametrize("body", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize(
    "lead",
    [
        b"\xef\xbb\xbf",
        b"\n",
        b"\r\n\r\n  \0",
        b"\r\n\xf2\xc0",
        b"Some junk before the header\n\n",
        b"x" * (PDF_MARGIN - 5),
        b" " * (PDF_MARGIN - 5),
        b"\x1b%-12345X@PJL ENTER LANGUAGE=PDF\r\n",
        b'\x1b%-12345X@PJL JOB NAME = "RE-1"\r\n@PJL SET DUPLEX=ON\r\n@PJL ENTER LANGUAGE = PDF\r\n',
    ],
)
def test_junk_in_front(lead, body):
    """Readers skip what stands before `%PDF-`, so it is no flaw: a BOM, blanks, a few bytes, a print job's header."""
    assert flaw(lead + body) is None


@pytest.mark.parametrize("body", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("padding", [b" " * 507, b"\0" * 1100, b"\0" * 40_000, b"\r\n" * 1000, b"\0\n" * 100_000])
def test_padding_behind(padding, body):
    """NULs and white space behind the end are set aside, however many there are."""
    assert flaw(body + padding) is None


@pytest.mark.parametrize("body", BUILDS.values(), ids=BUILDS)
def test_a_print_job_around_it(body):
    """A printer's job language ends behind the document that it began before."""
    job = b"\x1b%-12345X@PJL JOB\r\n@PJL ENTER LANGUAGE=PDF\r\n"
    assert flaw(job + body + b"\r\n\x1b%-12345X@PJL EOJ\r\n\x1b%-12345X") is None
    assert "%%EOF" in flaw(job + body + b"\r\nAccess denied")


@pytest.mark.parametrize(
    "end",
    [
        b"startxref\n%d\n%%%%EOF",
        b"startxref\r\n%d\r\n%%%%EOF\r\n",
        b"startxref %d%%%%EOF",
        b"startxref\n%d\n%%%%EOF\n\n%%%%EOF\n",
        b"startxref\n%d\n%% made by hand\n%%%%EOF\n",
        b"startxref\n%020d\n%%%%EOF\n",
    ],
)
def test_spellings_of_the_end(end):
    """The end may be on one line, without a line's end, with comments, and `%%EOF` may come twice."""
    body = PLAIN[: PLAIN.rindex(b"startxref")]
    spelt = body + end % body.rindex(b"xref")
    assert pages(spelt) == 1
    assert flaw(spelt) is None


@pytest.mark.parametrize("number", [0, 9, 77, -1, 1, 2, 40, -300])
@pytest.mark.parametrize("name", ["plain", "updated", "encrypted", "cross-reference stream"])
def test_a_miscounted_startxref(name, number):
    """A number that leads elsewhere within the file is no flaw: negative ones count back from the right one."""
    body = BUILDS[name]
    (right,) = re.findall(rb"startxref\n(\d+)\n%%EOF\n\Z", body)
    wrong = number if number > 2 or number == 0 else int(right) + number
    assert flaw(body[: body.rindex(b"startxref")] + b"startxref\n%d\n%%%%EOF\n" % wrong) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"%", "%PDF-"),
        (bytes(5000), "%PDF-"),
        (b"x" * (PDF_MARGIN - 4) + PLAIN, "%PDF-"),
        (b"%PDF-%%EOF", "startxref"),
        (b"%%EOF\n" + PLAIN[:-7], "%%EOF"),
        (PLAIN[: PLAIN.rindex(b"startxref")] + b"%%EOF\n", "startxref"),
        (PLAIN[: PLAIN.rindex(b"startxref")] + b"startxref\noops\n%%EOF\n", "startxref"),
        (PLAIN[: PLAIN.rindex(b"startxref")] + b"startxref\n-1\n%%EOF\n", "startxref"),
        (PLAIN[: PLAIN.rindex(b"startxref")] + b"startxref\n%d\n%%%%EOF\n" % len(PLAIN), "startxref names byte"),
        (PLAIN[: PLAIN.rindex(b"startxref")] + b"startxref\n" + b"9" * 3000 + b"\n%%EOF\n", "startxref names byte"),
        (PLAIN[:300] + PLAIN[500:], "startxref names byte"),
        (PLAIN + b"<!-- served by a portal -->", "28 bytes follow the last %%EOF"),
        (PLAIN + b"\nx", "3 bytes follow the last %%EOF"),
        (PLAIN + b"\n" * 5000 + b"x", "%%EOF"),
    ],
)
def test_what_is_no_whole_pdf(body, said):
    """The start, the end, the number before it and something between them must be there; the words name the flaw."""
    assert said in flaw(body)


@pytest.mark.parametrize("name", BUILDS)
def test_every_cut_shows(name):
    """A document cut anywhere has a flaw, but at the end of an earlier revision, which is a whole PDF."""
    body = BUILDS[name]
    ends = [match.end() for match in re.finditer(rb"%%EOF", body)]
    if name.startswith("linearized"):
        del ends[0]
    passing = {cut for cut in range(len(body)) if flaw(body[:cut]) is None}
    assert {end + 1 for end in ends[:-1]} <= passing <= {cut for end in ends for cut in (end, end + 1)}
    assert all(pages(body[:cut]) == 1 for cut in passing)


@given(builds, st.data())
def test_a_cut_file_filled_with_zeros_shows(body, data):
    """A file that was reserved at full length and filled in part only is no whole document."""
    cut = data.draw(st.integers(0, body.rindex(b"%%EOF")))
    ends = [match.end() for match in re.finditer(rb"%%EOF", body)]
    found = flaw(body[:cut].ljust(len(body), b"\0"))
    assert found is not None or any(end <= cut <= end + 1 for end in ends)


def test_the_front_of_a_linearized_document_shows():
    """The first part of a linearized document ends like a whole one, but for the length that it tells."""
    body = linearized()
    front = body[: body.index(b"%%EOF") + 6]
    for cut in (front, front + b"\0" * (len(body) - len(front)), front + bytes(40_000)):
        assert f"linearized for {len(body)}" in flaw(cut)
    assert f"linearized for {len(body)}" in flaw(body[:300] + b"% inserted\n" + body[300:])


def zipped(body, name="RE-1.pdf"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, body)
    return out.getvalue()


def tarred(body, kind):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        entry = tarfile.TarInfo("RE-1.pdf")
        entry.size = len(body)
        archive.addfile(entry, io.BytesIO(body))
    return out.getvalue()


def early_tar(body):
    """As before POSIX: a name, numbers, a checksum and no mark."""
    made = bytearray(tarred(body, tarfile.USTAR_FORMAT))
    made[257:500] = bytes(243)
    made[148:156] = b"%06o\0 " % (sum(made[:148]) + 8 * 32 + sum(made[156:512]))
    return bytes(made)


def ar(body):
    return b"!<arch>\nRE-1.pdf/       0           0     0     644     %-10d`\n" % len(body) + body


def lz4_stored(body):
    return b"\x04\x22\x4d\x18\x60\x40\x82" + (len(body) | 1 << 31).to_bytes(4, "little") + body + bytes(4)


PAGE = b"<!DOCTYPE html><html><body>Please log in.<pre>%b</pre></body></html>"
MIME = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: binary\r\n\r\n"
WRAPPINGS = {
    "zip": (zipped, "archive"),
    "zip, cut behind the document": (lambda body: zipped(body)[: 38 + len(body)], "archive"),
    "zip behind a program": (lambda body: b"MZ" + bytes(98) + zipped(body), "archive"),
    "tar": (lambda body: tarred(body, tarfile.USTAR_FORMAT), "archive"),
    "tar of GNU": (lambda body: tarred(body, tarfile.GNU_FORMAT), "archive"),
    "tar of old": (early_tar, "archive"),
    "ar": (ar, "archive"),
    "lz4": (lz4_stored, "archive"),
    "gzip, stored": (lambda body: gzip.compress(body, 0), "archive"),
    "page": (lambda body: PAGE % body, "markup"),
    "page, open": (lambda body: b"<html><body>" + body, "markup"),
    "page with a form": (lambda body: b'<input name="a" value=' + body, "markup"),
    "xml": (lambda body: b"<?xml version='1.0'?><pdf><![CDATA[" + body, "markup"),
    "comment": (lambda body: b"<!-- cached -->\n" + body, "markup"),
    "JSON": (lambda body: b'{"pdf": "' + body + b'"}', "JSON"),
    "JSON with a BOM": (lambda body: b'\xef\xbb\xbf{\n "pdf": "' + body, "JSON"),
    "JSON list": (lambda body: b'[{"id": 1, "text": "see ' + body, "JSON"),
    "JSON string": (lambda body: b'"' + body + b'"', "JSON"),
    "assignment": (lambda body: b"pdf = '" + body, "JSON"),
    "form": (lambda body: b"--b\r\nContent-Disposition: form-data\r\n\r\n" + body + b"\r\n--b--\r\n", "form or mail"),
    "form, unclosed": (lambda body: b"\r\n------WebKitFormBoundaryx\r\n\r\n" + body, "form or mail"),
    "mail": (lambda body: MIME + body, "header"),
    "mail with folded lines": (lambda body: b"Subject: RE-1\n an invoice\nX-A: b\n\n" + body, "header"),
    "answer": (lambda body: b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + body, "header"),
    "chunks": (lambda body: b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), "follow the last %%EOF"),
    "signed chunks": (
        lambda body: b"%x;chunk-signature=ab\r\n%b\r\n0;chunk-signature=cd\r\n\r\n" % (len(body), body),
        "follow",
    ),
    "base64": (base64.b64encode, "%PDF-"),
    "base64 in JSON": (lambda body: json.dumps({"pdf": base64.b64encode(body).decode()}).encode(), "%PDF-"),
    "UTF-16": (lambda body: body.decode("latin-1").encode("utf-16"), "%PDF-"),
    "UTF-16 without a BOM": (lambda body: body.decode("latin-1").encode("utf-16-le"), "%PDF-"),
    "escaped": (lambda body: body.decode("latin-1").encode("unicode-escape"), None),
    "representation": (lambda body: repr(body).encode(), "JSON"),
    "HTML-escaped": (lambda body: body.replace(b"<", b"&lt;").replace(b">", b"&gt;"), "escaped as HTML"),
}


@pytest.mark.parametrize("body", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize(("wrap", "said"), WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_wrapped_document_is_none(wrap, said, body):
    """A PDF in an archive, a page, JSON, a form, a mail or an encoding is not the document itself."""
    found = flaw(wrap(body))
    assert found is not None
    assert said is None or said in found


@given(
    builds,
    st.sampled_from([b"PK\x03\x04", b"<html>", b"<p>", b'{"a": ', b'["', b"--boundary\r\n", b"X-Id: 1\r\n\r\n"]),
    st.binary(max_size=200).filter(lambda data: b"%PDF-" not in data),
)
def test_a_wrapping_shows_whatever_follows(body, mark, more):
    """However the wrapping goes on behind its first bytes and behind the document, it is no PDF."""
    lead = mark + (more if mark.startswith((b"PK", b"<", b"--")) else b"")
    assert flaw(lead + body) is not None
    assert flaw(lead + body + more) is not None


CONVERSIONS = {
    "Latin-1 to UTF-8": lambda body: body.decode("latin-1").encode(),
    "Windows-1252 to UTF-8": lambda body: body.decode("cp1252", "replace").encode(),
    "UTF-8 with replacements": lambda body: body.decode("utf-8", "replace").encode(),
    "LF to CR LF": lambda body: body.replace(b"\n", b"\r\n"),
    "quoted-printable": quopri.encodestring,
}


@pytest.mark.parametrize("body", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b"\r\n"], ids=["", "BOM", "line"])
@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_document_converted_as_text_is_none(convert, lead, body):
    """Binary data that somebody took for text on the way is lost, though start and end still stand."""
    assert flaw(lead + convert(body)) is not None


@pytest.mark.parametrize("convert", list(CONVERSIONS.values())[:3], ids=list(CONVERSIONS)[:3])
def test_a_long_converted_document_is_none(convert):
    """Where the cross-references begin before what is kept of the end, binary data at the start tells."""
    book = InvoiceBook(1, 7, size=20_000)
    made = render(book.find(book.invoice_id(0)))
    start = made.index(b"stream\n") + 7
    body = made[:start] + hashlib.sha512(made).digest() * 20 + made[start:]
    table = body.rindex(b"xref\n0 ")
    long = body[:table] + b"xref\n0 999\n" + b"0000000000 00000 n \n" * 998 + body[table:].split(b"\n", 2)[2]
    assert flaw(long) is None
    assert "converted" in flaw(convert(long))


def test_cr_lf_to_lf():
    """Where lines lost their carriage returns places have shifted, and the entries of the table are too short."""
    start = PLAIN.rindex(b"xref\n0 ")
    body = PLAIN[:start] + b"%\r\n" * 10 + PLAIN[start:].replace(b" \n", b"\r\n")
    body = body.replace(b"%010d\n%%%%EOF" % start, b"%010d\n%%%%EOF" % (start + 30))
    assert pages(body) == 1
    assert flaw(body) is None
    assert "converted" in flaw(body.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("comment", ["%🖤", "%äöüß", "%µ¶"])
def test_text_in_a_document_is_no_conversion(comment):
    """Producers mark a document as binary by a comment that may be UTF-8, and XML in it is."""
    comment_bytes = comment.encode()
    plain = with_invoice_data()
    shift = len(comment_bytes) - 5
    body = plain.replace(plain[9:14], comment_bytes, 1)
    head, table = body[: body.rindex(b"xref\n0 ")], body[body.rindex(b"xref\n0 ") :]
    moved = re.sub(rb"\d{10}(?= 00000 n|\n)", lambda place: b"%010d" % (int(place[0]) + shift), table)
    assert pages(head + moved) == 1
    assert flaw(head + moved) is None


@given(builds, st.sampled_from([b"", b"\n", b"\xef\xbb\xbf"]), st.integers(0, 9000), st.lists(st.integers(0, 1500)))
def test_chunks_make_no_difference(body, lead, padding, sizes):
    """Size, digest and verdict depend on the bytes alone, not on where the chunks are cut."""
    body = lead + body + (BLANKS * 1500)[:padding]
    chunks, rest = [], body
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    checked = check(*chunks, rest)
    assert (checked.size, checked.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert checked.digest().hex() == checked.sha256
    assert checked.flaw() is None


@given(
    st.lists(st.sampled_from([PLAIN, linearized(), b"\0" * 5000, b"\n" * 700, b"x", b" %%EOF"]), max_size=6), st.data()
)
def test_chunks_make_no_difference_to_a_flaw(parts, data):
    """In tiny chunks or at once, padding in the middle included: the same words."""
    body = b"".join(parts)
    cut = data.draw(st.integers(0, len(body)))
    at_once = check(body).flaw()
    assert check(body[:cut], body[cut:]).flaw() == at_once
    assert check(*(body[start : start + 13] for start in range(0, len(body), 13))).flaw() == at_once


@pytest.mark.parametrize("block", [b"x" * 65_536, b"\0" * 65_536, b"x" + b"\n" * 65_535, b"\n"])
def test_memory_is_bounded(block):
    """Some kilobytes are kept of a document without end, also where it consists of padding."""
    checked = check(PLAIN)
    for _ in range(500):
        checked.take(block)
    kept = [getattr(checked, name) for name in PdfCheck.__slots__]
    assert sum(map(sys.getsizeof, kept)) < 16_384


def test_much_padding_keeps_the_end():
    """The end of the document is remembered through any number of chunks of padding, and lost when more comes."""
    checked = check(PLAIN, *[b"\0" * 65_536] * 100)
    assert checked.flaw() is None
    checked.take(b"\n.")
    assert "%%EOF" in checked.flaw()
