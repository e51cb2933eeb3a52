"""Rows of other runs on one archive, which come right behind their objects."""

from collections.abc import Awaitable, Callable

from bulkfetch.retrying import polling

ROW_SECONDS = 3.0
"""How long a row may take. In a bucket, rows gather for half a second before they are put."""

_LOOK_SECONDS = 0.2

_ENOUGH_IN_VAIN = 40
"""After so many waits in a row for nothing, the objects are what dead runs left, or what somebody brought along."""


class Siblings:
    """Waits for the row of an object that another run may just have put: else both would call it stored.

    Mutable: `_in_vain`, how many waits in a row brought no row.
    """

    def __init__(self) -> None:
        self._in_vain = 0

    async def have_row(self, look: Callable[[], Awaitable[bool]]) -> bool:
        """Whether `look` finds a row, at once or soon."""
        if await look():
            return True
        if self._in_vain >= _ENOUGH_IN_VAIN:
            return False
        found = await polling(look, ROW_SECONDS, pause=_LOOK_SECONDS)
        self._in_vain = 0 if found else self._in_vain + 1
        return found
