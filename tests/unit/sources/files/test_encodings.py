"""Text in other encodings, and what is no text."""

import codecs
import io
import tarfile
import zipfile

import pytest

from bulkfetch.errors import UsageError
from bulkfetch.sources.files.encodings import AUTO, Recoder, known_encoding
from bulkfetch.sources.files.kinds import foreign_kind

TEXT = "id;Empf\u00e4nger\r\nRE-1;M\u00fcller \u20ac\r\n"


def recoded(data, encoding=AUTO, size=1 << 16):
    """What `data` is in UTF-8, fed in parts of `size` bytes, and what was told."""
    told = []
    recoder = Recoder("list", known_encoding(encoding), told.append)
    parts = [part for at in range(0, len(data), size) for part in recoder.feed(data[at : at + size])]
    return b"".join([*parts, recoder.finish()]).decode().removeprefix("\ufeff"), told


@pytest.mark.parametrize("size", [1, 3, 1 << 16])
@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
    ],
)
def test_what_is_certain_is_found_and_said(data, size):
    """UTF-16 and UTF-32 are known by their mark or by their zeros, in whatever parts they come."""
    text, told = recoded(data, size=size)
    assert text == TEXT
    assert len(told) == 1
    assert "UTF-" in told[0]


@pytest.mark.parametrize("encoding", ["windows-1252", "cp1252", "ISO-8859-15", "utf-16-le"])
def test_what_is_told_is_taken(encoding):
    """An encoding has the names that people know it by."""
    assert recoded(TEXT.encode(encoding), encoding, size=5) == (TEXT, [])


def test_utf8_passes():
    """Nothing is done to UTF-8, and nothing said."""
    assert recoded(TEXT.encode(), size=1) == (TEXT, [])


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "punycode", "a\0b", ""])
def test_what_no_list_is_in_is_refused(encoding):
    """The message names encodings that there are."""
    with pytest.raises(UsageError, match="windows-1252"):
        known_encoding(encoding)


def test_what_contradicts_the_first_bytes_is_refused():
    """A byte order mark knows better than whoever gave the flag."""
    with pytest.raises(UsageError, match="UTF-16, not cp1252; leave out --encoding"):
        recoded(codecs.BOM_UTF16_LE + b"a\0", "windows-1252")


def zipped(name):
    """A ZIP with the file `name`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


def in_tar():
    """A tar archive with one file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("ids.txt"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zipped("[Content_Types].xml"), "Office document.*save the list as CSV"),
        (zipped("ids.txt"), "ZIP archive; unpack"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "Office document"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"BZh91AY&SY" + bytes(10), "bzip2; unpack"),
        (b"\xfd7zXZ\0\0", "xz; unpack"),
        (b"\x28\xb5\x2f\xfd\0\0\0\0", "Zstandard"),
        (b"7z\xbc\xaf\x27\x1c\0\0", "7-Zip"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "packed twice"),
        (in_tar(), "tar archive"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Workbook>', "HTML or XML"),
        (b"<html><table>", "HTML or XML"),
    ],
)
def test_documents_and_archives_are_refused_with_the_fix(data, words):
    """What is no text is known by its first bytes, and not read as a thousand bad rows."""
    with pytest.raises(UsageError, match=words):
        recoded(data)


@pytest.mark.parametrize("data", [b"BZh9-1\n", b"PK-1\n", b"id;n\n", b"7z-1\n", b"<1>\n"])
def test_text_is_no_document(data):
    """An ID may begin as some mark does."""
    assert foreign_kind(data) is None
