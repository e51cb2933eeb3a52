"""Invoice PDFs, made in one pass: small, valid, and the same bytes each time."""

import random
from collections.abc import Iterator
from uuid import UUID

from bulkfetch.sandbox.invoices import Document, Kind

_TITLES = {Kind.INVOICE: "Rechnung", Kind.CREDIT_NOTE: "Gutschrift", Kind.CANCELLATION: "Stornorechnung"}
_CUSTOMERS = (
    ("Bäckerei Größ GmbH", "Mühlstraße 4", "72070 Tübingen"),
    ("Jürgen Weiß Elektrotechnik", "Königsallee 118", "40215 Düsseldorf"),
    ("Café Übermorgen OHG", "Schöne Aussicht 9", "97070 Würzburg"),
    ("Nordlicht Möbel AG", "Hafenstraße 31", "24103 Kiel"),
    ("Praxis Dr. Öztürk", "Lindenplatz 2", "50674 Köln"),
)
_ITEMS = (
    ("Grundgebühr Tarif Plus", 4900),
    ("Zusätzliche Nutzer", 1250),
    ("Datenspeicher 100 GB", 890),
    ("Einrichtung und Prüfung der Schnittstelle", 24000),
    ("Schulung für Schlüsselanwender", 38500),
    ("Unterstützung, je Stunde", 11200),
    ("Nachrichtenpaket 10.000", 3975),
)
_VAT_PERCENT = 19

# In points; A4 is 595 x 842.
_LEFT, _RIGHT = 57, 538
_QUANTITY, _PRICE = 360, 450
_TABLE_TOP, _ROW = 520, 24

# Advance widths of Helvetica, in thousandths of the font size, of all that stands in right-aligned columns.
_WIDTHS = dict.fromkeys("0123456789€", 0.556) | dict.fromkeys("., ", 0.278) | {"-": 0.333}
_GERMAN = str.maketrans(",.", ".,")

_INK, _ACCENT, _MUTED, _TINT = "0.13 0.15 0.18", "0.09 0.33 0.45", "0.45 0.48 0.52", "0.93 0.96 0.97"


def render(document: Document) -> bytes:
    """The document's PDF: a page that bears its number, and an attachment that fills it up to `document.size` bytes.

    It is exactly that long, unless the page alone is longer (some 4 KiB).
    """
    identity = UUID(document.invoice_id)
    dice = random.Random(identity.int)
    content = "\n".join(_page(document, dice)).encode("cp1252")
    page = b"7 0 obj\n<</Length %d>>\nstream\n%b\nendstream\nendobj\n" % (len(content), content)
    padding_at = len(_HEAD) + len(page)
    fill = max(0, document.size - padding_at - _OVERHEAD)
    padding = _PADDING % (fill, dice.randbytes(fill))
    file_id = identity.hex.encode()
    return b"".join((_HEAD, page, padding, _TAIL % (padding_at, file_id, file_id, padding_at + len(padding))))


def _page(document: Document, dice: random.Random) -> Iterator[str]:
    """The operators that draw the page."""
    title = _TITLES[document.kind]
    customer = dice.choice(_CUSTOMERS)
    yield _CHROME
    for line, text in enumerate(customer):
        yield _text("R", 10, _LEFT, 700 - 14 * line, text)
    yield _text("R", 9, 430, 700, document.number)
    yield _text("R", 9, 430, 686, f"{document.date:%d.%m.%Y}")
    yield _text("R", 9, 430, 672, f"K-{dice.randrange(10_000, 99_999)}")
    yield f"{_ACCENT} rg"
    yield _text("B", 20, _LEFT, 590, f"{title} {document.number}")
    yield f"{_INK} rg"
    yield _text("R", 10, _LEFT, 566, "Wir danken für Ihr Vertrauen. Alle Beträge in Euro.")
    yield from _table(-1 if document.kind is not Kind.INVOICE else 1, dice)


def _table(sign: int, dice: random.Random) -> Iterator[str]:
    """The lines with their amounts, and the totals."""
    net, y = 0, _TABLE_TOP
    for item, cents in dice.sample(_ITEMS, dice.randrange(2, 6)):
        y -= _ROW
        quantity = dice.randrange(1, 25)
        amount = sign * quantity * cents
        net += amount
        yield _text("R", 10, _LEFT + 8, y, item)
        yield _right(_QUANTITY, y, str(quantity))
        yield _right(_PRICE, y, _euros(cents))
        yield _right(_RIGHT - 8, y, _euros(amount))
        yield f"{_LEFT} {y - 8} m {_RIGHT} {y - 8} l S"
    tax = round(net * _VAT_PERCENT / 100)
    yield _text("R", 10, _QUANTITY - 20, y - 32, "Nettobetrag")
    yield _right(_RIGHT - 8, y - 32, _euros(net))
    yield _text("R", 10, _QUANTITY - 20, y - 50, f"Umsatzsteuer {_VAT_PERCENT} %")
    yield _right(_RIGHT - 8, y - 50, _euros(tax))
    yield f"{_TINT} rg {_QUANTITY - 28} {y - 84} {_RIGHT - _QUANTITY + 28} 24 re f {_INK} rg"
    yield _text("B", 11, _QUANTITY - 20, y - 76, "Gesamtbetrag")
    yield _right(_RIGHT - 8, y - 76, f"{_euros(net + tax)} €", font="B", size=11)


def _euros(cents: int) -> str:
    return f"{cents / 100:,.2f}".translate(_GERMAN)


def _text(font: str, size: int, x: float, y: int, text: str) -> str:
    return f"BT /{font} {size} Tf {x:.2f} {y} Td ({text}) Tj ET"


def _right(x: int, y: int, text: str, *, font: str = "R", size: int = 10) -> str:
    return _text(font, size, x - size * sum(map(_WIDTHS.__getitem__, text)), y, text)


_CHROME = "\n".join(
    (
        f"{_ACCENT} rg 0 832 595 10 re f",
        _text("B", 15, _LEFT, 780, "Muster & Söhne GmbH"),
        f"{_MUTED} rg",
        _text("R", 9, _LEFT, 764, "Beispielweg 7 · 10115 Berlin"),
        _text("R", 7, _LEFT, 718, "Muster & Söhne GmbH · Beispielweg 7 · 10115 Berlin"),
        _text("R", 9, 360, 700, "Nummer"),
        _text("R", 9, 360, 686, "Datum"),
        _text("R", 9, 360, 672, "Kunde"),
        _text("R", 8, _LEFT, 44, "Erzeugt von bulkfetch sandbox. Eine Übung: kein Beleg, keine Zahlungspflicht."),
        f"{_TINT} rg {_LEFT} {_TABLE_TOP - 8} {_RIGHT - _LEFT} 24 re f",
        f"{_INK} rg 0.80 0.84 0.86 RG 0.5 w {_LEFT} 58 m {_RIGHT} 58 l S",
        _text("B", 9, _LEFT + 8, _TABLE_TOP, "Leistung"),
        _text("B", 9, _QUANTITY - 28, _TABLE_TOP, "Menge"),
        _text("B", 9, _PRICE - 48, _TABLE_TOP, "Einzelpreis"),
        _text("B", 9, _RIGHT - 37, _TABLE_TOP, "Betrag"),
    )
)

_OBJECTS = (
    b"<</Type/Catalog/Pages 2 0 R/Names<</EmbeddedFiles<</Names[(padding.bin) 6 0 R]>>>>>>",
    b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
    b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</R 4 0 R/B 5 0 R>>>>/Contents 7 0 R>>",
    b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica-Bold/Encoding/WinAnsiEncoding>>",
    b"<</Type/Filespec/F(padding.bin)/UF(padding.bin)/EF<</F 8 0 R>>>>",
)
_PADDING = b"8 0 obj\n<</Type/EmbeddedFile/Length %-10d>>\nstream\n%b\nendstream\nendobj\n"


def _head() -> tuple[bytes, bytes]:
    """The objects that all documents share (1 to 6), and the cross-reference entries up to object 7, which follows."""
    head, entries = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", b"0000000000 65535 f \n"
    for number, body in enumerate(_OBJECTS, 1):
        entries += b"%010d 00000 n \n" % len(head)
        head += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    return head, entries + b"%010d 00000 n \n" % len(head)


_HEAD, _ENTRIES = _head()
# Numbers of fixed width, so that the length of what is left to fill is known beforehand.
_TAIL = (
    b"xref\n0 9\n"
    + _ENTRIES
    + b"%010d 00000 n \ntrailer\n<</Size 9/Root 1 0 R/ID[<%b><%b>]>>\nstartxref\n%010d\n%%%%EOF\n"
)
_OVERHEAD = len(_PADDING % (0, b"")) + len(_TAIL % (0, bytes(32), bytes(32), 0))
