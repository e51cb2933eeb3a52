"""The invoices whose answers cannot be trusted, because of what else came over their connection."""

from collections.abc import Callable, Collection


class Doubts:
    """IDs of invoices that were asked for over a connection which carried an answer that nobody had asked for: whose
    answer theirs was, is not known.

    Mutable: `ids`. `told` hears of each change of them, on the event loop.
    """

    def __init__(self, told: Callable[[Collection[str]], None] | None = None) -> None:
        self.ids: set[str] = set()
        self.told = told

    def add(self, ids: Collection[str]) -> None:
        """Doubt the answers about `ids`."""
        if not self.ids.issuperset(ids):
            self.ids.update(ids)
            self._tell()

    def clear(self, invoice_id: str) -> None:
        """The answer about `invoice_id` is in no doubt any more."""
        if invoice_id in self.ids:
            self.ids.discard(invoice_id)
            self._tell()

    def _tell(self) -> None:
        if self.told is not None:
            self.told(self.ids)
