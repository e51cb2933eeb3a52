"""Which names the invoices of an input would get, and which of them two invoices come to."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from anyio import to_thread

from bulkfetch.keys import KeyTemplate, fold
from bulkfetch.manifest.duplicates import SeenIds
from bulkfetch.manifest.history import SnapshotHistory
from bulkfetch.models import Delivery
from bulkfetch.text import printable

Spelt = Callable[[Sequence[str]], Awaitable[Sequence[str]]]


class PlannedNames:
    """Knows the names that were planned so far, in flat memory. Not for two tasks at once.

    Which of two new invoices keeps the plain name is decided by the run, where the first one to be stored has it; here
    it is the first one of the input.

    Args:
        seen: keeps the names; the IDs of invoices are kept elsewhere.
        spelt: tells how keys are spelt on a disk that takes names for one that differ only in case; None for any other.
    """

    def __init__(self, keys: KeyTemplate, history: SnapshotHistory, seen: SeenIds, *, spelt: Spelt | None) -> None:
        self._keys = keys
        self._history = history
        self._seen = seen
        self._spelt = spelt

    async def taken(self, to_fetch: Sequence[tuple[Delivery, str, bool]]) -> Mapping[int, str]:
        """Which of `to_fetch` would find their plain name taken, by their index, and by what, in words."""
        if self._keys.injective and self._spelt is None:
            return {}
        keys = [key for _, key, _ in to_fetch]
        there = await self._spelt(keys) if self._spelt else keys
        names = [(fold(key) if self._spelt else key, row.line) for row, key, _ in to_fetch]
        met = await to_thread.run_sync(self._seen.find_repeats, names)
        owners = await self._history.owners(there)
        found: dict[int, str] = {}
        for index, ((row, _, _), key) in enumerate(zip(to_fetch, there, strict=True)):
            if key.rpartition("/")[2] != keys[index].rpartition("/")[2]:
                found[index] = f"this disk takes {printable(keys[index], 200)} for {printable(key, 200)}"
            elif owners.get(key, row.invoice_id) != row.invoice_id:
                found[index] = f"{printable(key, 200)} is that of invoice {printable(owners[key], 200)}"
            elif index in met:
                line = met[index]
                first = "of an earlier row" if line is None else f"of line {line}"
                found[index] = f"{printable(key, 200)} is that {first}"
        return found

    def alternative(self, row: Delivery) -> str:
        """The key that `row` gets where its plain name is taken."""
        return self._keys.alternative(row.invoice_id, row.fields)
