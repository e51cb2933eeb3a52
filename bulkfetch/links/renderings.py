"""Downloads whose end nothing marks: two of them must tell whether they are whole."""

from collections import OrderedDict

from bulkfetch.pdf import PdfCheck

_END = b"startxref"
MOST_WITNESSES = 1024


class Rendering:
    """What one download of a document was like. A host that renders a document anew for every download never sends the
    same bytes twice; but it sends the same number of revisions, and a document that was cut has fewer, or no end."""

    def __init__(self) -> None:
        self.check = PdfCheck()
        self.revisions = 0
        self._last = b""

    def take(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self.check.take(chunk)
        self.revisions += (self._last + chunk[: len(_END)]).count(_END) + chunk.count(_END)
        self.revisions -= chunk[: len(_END)].count(_END)
        self._last = (self._last + chunk[1 - len(_END) :])[1 - len(_END) :]

    @property
    def whole(self) -> bool:
        """Whether nothing speaks against a whole PDF."""
        return self.check.flaw() is None

    def confirms(self, other: "Rendering") -> bool:
        """Whether both are whole: they are the same, or each is a whole PDF with as many revisions as the other."""
        if self.check.digest() == other.check.digest():
            return True
        # Without a byte of the line end, or padding, behind the document it would still be whole by its looks.
        only_padding_cut = self.check.content_size == other.check.content_size and self.check.size != other.check.size
        return self.whole and other.whole and self.revisions == other.revisions and not only_padding_cut


class Witnesses:
    """The first of two downloads, by invoice: for where the second needs a link of its own. The oldest are
    forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Rendering] = OrderedDict()

    def keep(self, invoice_id: str | None, rendering: Rendering) -> None:
        """Keep `rendering` until `take`, if it is whole."""
        if invoice_id is not None and rendering.whole:
            self._kept[invoice_id] = rendering
            if len(self._kept) > MOST_WITNESSES:
                self._kept.popitem(last=False)

    def take(self, invoice_id: str | None) -> Rendering | None:
        """What was kept for the invoice."""
        return self._kept.pop(invoice_id, None) if invoice_id is not None else None
