"""The sandbox's invoices: any number of them in flat memory, because an ID tells whether it was issued."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

MAX_INVOICES = 1 << 40

_INDEX_SPACE = 1 << 48
# Neighbouring indexes land far apart, so that IDs do not look counted; odd, therefore invertible.
_SCATTER = 0x9E3779B97F4B
_GATHER = pow(_SCATTER, -1, _INDEX_SPACE)

_FIRST_DAY = date(2024, 1, 1)
_DAYS = 366


class Kind(StrEnum):
    """What the endpoint serves. The value is the prefix of the document's number."""

    INVOICE = "RE"
    CREDIT_NOTE = "GS"
    CANCELLATION = "ST"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the book. `size` is in bytes; a draft has no PDF yet."""

    invoice_id: str
    kind: Kind
    number: str
    date: date
    size: int
    draft: bool


class InvoiceBook:
    """`count` documents that follow from `seed` alone.

    An ID carries its index (last twelve digits, scattered) and a keyed hash of it, so membership is recomputed and no
    table is kept. What an ID stands for does not depend on `count`: a larger book only goes on.

    Args:
        count: how many IDs there are.
        seed: another seed gives other IDs and other documents.
        size: mean size of a PDF in bytes; single ones are up to a quarter smaller or larger.
        drafts: share (0..1) of documents that are drafts.
        missing: share (0..1) of the IDs in `ids()` that `find` does not know.
    """

    def __init__(
        self, count: int, seed: int, *, size: int = 60 * 1024, drafts: float = 0.0, missing: float = 0.0
    ) -> None:
        if not 0 <= count <= MAX_INVOICES:
            raise ValueError(f"count must be between 0 and {MAX_INVOICES}")
        self.count = count
        self._key = hashlib.blake2b(str(seed).encode(), digest_size=32).digest()
        self._size = size
        self._drafts = drafts
        self._missing = missing

    def ids(self) -> Iterator[str]:
        """Every ID, in the order of the book."""
        return map(self.invoice_id, range(self.count))

    def invoice_id(self, index: int) -> str:
        """The ID at `index`: lower-case, in the form of a UUID of version 4."""
        return self._format(index, self._traits(index))

    def find(self, invoice_id: str) -> Document | None:
        """The document with exactly this ID, or None."""
        try:
            index = (int(invoice_id[24:], 16) * _GATHER - 1) % _INDEX_SPACE
        except ValueError:
            return None
        if index >= self.count:
            return None
        traits = self._traits(index)
        if self._format(index, traits) != invoice_id or _share(traits[10:14]) < self._missing:
            return None
        kind = _kind(_share(traits[14:18]))
        return Document(
            invoice_id=invoice_id,
            kind=kind,
            number=f"{kind}-{_FIRST_DAY.year}-{index + 1:05d}",
            date=_FIRST_DAY + timedelta(days=index % _DAYS),
            size=int(self._size * (0.75 + _share(traits[22:26]) / 2)),
            draft=_share(traits[18:22]) < self._drafts,
        )

    def _traits(self, index: int) -> bytes:
        return hashlib.blake2b(index.to_bytes(6), key=self._key, digest_size=26).digest()

    @staticmethod
    def _format(index: int, traits: bytes) -> str:
        tag = traits[:10].hex()
        variant = "89ab"[traits[9] & 3]
        tail = (index + 1) * _SCATTER % _INDEX_SPACE
        return f"{tag[:8]}-{tag[8:12]}-4{tag[12:15]}-{variant}{tag[15:18]}-{tail:012x}"


def _share(four: bytes) -> float:
    return int.from_bytes(four) / (1 << 32)


def _kind(share: float) -> Kind:
    if share < 0.88:
        return Kind.INVOICE
    return Kind.CREDIT_NOTE if share < 0.96 else Kind.CANCELLATION
