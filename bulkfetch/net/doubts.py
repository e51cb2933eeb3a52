"""The invoices whose answers cannot be trusted, because of what else came over their connection."""

from collections.abc import Callable, Collection


class Doubts:
    """IDs of invoices that were asked for over a connection which carried an answer that nobody had asked for: whose
    answer theirs was, is not known.

    Mutable: `ids`, which whoever has cleared an invoice up takes it out of. `told` hears of every ID that comes in.
    """

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.told: Callable[[Collection[str]], None] | None = None

    def add(self, ids: Collection[str]) -> None:
        """Doubt the answers about `ids`."""
        new = set(ids) - self.ids
        self.ids |= new
        if new and self.told is not None:
            self.told(new)
