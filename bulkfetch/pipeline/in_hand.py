"""How much is on its way: the invoices in hand, and what lies between a body's last byte and its row."""

import asyncio

MOST_AWAITING = 256
"""How many invoices may wait for the disk while others are downloaded: a group commit is quick only with many."""

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of bodies that may wait in memory for the disk. Each worker may add one body to them."""


class InHand:
    """Counts invoices from the worker that receives them to their end: a row, or the way back to the source.

    Mutable: the three counts and the future of those who wait for a change; all change without awaiting.
    """

    def __init__(self) -> None:
        self.invoices = 0
        """All that were handed out and have no end yet."""
        self.awaiting_row = 0
        """Those among them that are past their last byte, or have an outcome that is not recorded yet."""
        self._bytes = 0
        self._changed: asyncio.Future[None] | None = None

    def taken(self) -> None:
        """Count an invoice that is handed to a worker."""
        self.invoices += 1

    def passed_on(self, size: int = 0) -> None:
        """Count an invoice whose worker is done with it; `size` bytes of its body are in memory until `written`."""
        self.awaiting_row += 1
        self._bytes += size

    def written(self, size: int) -> None:
        """The `size` bytes that were passed on are out of memory."""
        self._bytes -= size
        self._tell()

    def came_back(self) -> None:
        """An invoice that was passed on needs a worker again."""
        self.awaiting_row -= 1
        self._tell()

    def recorded(self, invoices: int) -> None:
        """Count `invoices` that were passed on and have their end."""
        self.awaiting_row -= invoices
        self.ended(invoices)

    def ended(self, invoices: int = 1) -> None:
        """Count `invoices` that a worker brought to their end itself: put off, or released."""
        self.invoices -= invoices
        self._tell()

    async def room(self) -> None:
        """Wait until another body may be fetched."""
        while self.awaiting_row >= MOST_AWAITING or self._bytes >= MOST_BYTES:
            await self.change()

    async def none(self) -> None:
        """Wait until no invoice is in hand."""
        while self.invoices:
            await self.change()

    async def change(self) -> None:
        """Wait until something leaves."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _tell(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
