"""Which rows need no fetching, and why: the one answer that `run`, `plan` and `queue push` share."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bulkfetch.errors import PermanentError
from bulkfetch.interfaces import History
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Delivery, Entry, InputRow, Malformed, ObjectMeta

Head = Callable[[Sequence[str]], Awaitable[Sequence[ObjectMeta | None]]]
Whole = Callable[[Sequence[str]], Awaitable[Sequence[bool]]]


@dataclass(slots=True)
class Sorted:
    """A batch of input rows by what is to become of them, each list in the input's order.

    `duplicates` carry the line where their ID came first; `accepted` are gaps, with the reason that was given;
    `to_fetch` carry the key, and whether an object without a row may lie there already. `moved` has for invoices among
    `stored` the key that they would have today, where that is another one: the template was changed since, or a column.
    """

    malformed: list[Malformed] = field(default_factory=list)
    unusable: list[tuple[Delivery, PermanentError]] = field(default_factory=list)
    duplicates: list[tuple[Delivery, int | None]] = field(default_factory=list)
    stored: list[tuple[Delivery, Entry]] = field(default_factory=list)
    accepted: list[tuple[Delivery, str]] = field(default_factory=list)
    to_fetch: list[tuple[Delivery, str, bool]] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Looks:
    """When the store itself is asked.

    `head` is `Store.head`. `stored`: look for the objects that the manifests name. `unrecorded`: before fetching, look
    under every key for an object without a row. For a row that was handed out before, this is done in any case.
    `whole` tells of such objects whether each is a whole PDF, where that is not found out later.
    """

    head: Head
    stored: bool
    unrecorded: bool
    whole: Whole | None = None


class Triage:
    """Sorts batches of input rows. Changes nothing but what `history` remembers of the IDs that it has seen.

    Args:
        repeats: the same ID may come twice without being a duplicate: a queue may deliver a message again.
        looks: None where the manifests' word is all there is.
    """

    def __init__(self, *, history: History, keys: KeyTemplate, repeats: bool, looks: Looks | None) -> None:
        self._history = history
        self._keys = keys
        self._repeats = repeats
        self._looks = looks
        # The rows of a queue come from anybody, each with columns of its own.
        self._unchecked = bool(keys.columns) and not repeats

    async def sort(self, batch: Sequence[InputRow]) -> Sorted:
        """What is to become of each row of `batch`.

        Raises:
            UsageError: no row of the first batch has a column that the key needs.
        """
        result = Sorted()
        deliveries: list[Delivery] = []
        for row in batch:
            if isinstance(row, Malformed):
                result.malformed.append(row)
            else:
                deliveries.append(row)
        if self._unchecked and deliveries:
            self._unchecked = False
            self._keys.check_columns(dict.fromkeys(name for delivery in deliveries for name in delivery.fields))
        repeated = await self._repeated(deliveries)
        stored = await self._still_stored([delivery.invoice_id for delivery in deliveries])
        accepted = await self._accepted([delivery.invoice_id for delivery in deliveries], stored)
        for index, delivery in enumerate(deliveries):
            if index in repeated:
                result.duplicates.append((delivery, repeated[index]))
            elif entry := stored.get(delivery.invoice_id):
                result.stored.append((delivery, entry))
                if key := self._moved(delivery, entry):
                    result.moved[delivery.invoice_id] = key
            elif (reason := accepted.get(delivery.invoice_id)) is not None:
                result.accepted.append((delivery, reason))
            else:
                try:
                    key = self._keys.key_for(delivery.invoice_id, delivery.fields)
                except PermanentError as error:
                    result.unusable.append((delivery, error))
                else:
                    result.to_fetch.append((delivery, key, False))
        if there := await self._unrecorded(result.to_fetch):
            result.to_fetch = [(delivery, key, key in there) for delivery, key, _ in result.to_fetch]
        return result

    def _moved(self, delivery: Delivery, entry: Entry) -> str | None:
        """The key that `delivery`, stored as `entry`, would have today; None if it is that of `entry`."""
        try:
            if self._keys.gives(entry.key, delivery.invoice_id, delivery.fields):
                return None
            return self._keys.key_for(delivery.invoice_id, delivery.fields)
        except PermanentError:
            return None

    async def _repeated(self, deliveries: Sequence[Delivery]) -> Mapping[int, int | None]:
        """Which of `deliveries` are duplicates, by their index."""
        if self._repeats:
            return {}
        return await self._history.find_repeats([(delivery.invoice_id, delivery.line) for delivery in deliveries])

    async def _still_stored(self, ids: Sequence[str]) -> Mapping[str, Entry]:
        """The IDs that an earlier run stored, with their entries. Where the store can be asked in time, an entry counts
        only while its object is there: a row alone is not an object."""
        stored = await self._history.stored(ids)
        if not stored or self._looks is None or not self._looks.stored:
            return stored
        entries = list(stored.items())
        found = await self._looks.head([entry.key for _, entry in entries])
        return {
            invoice_id: entry
            for (invoice_id, entry), meta in zip(entries, found, strict=True)
            if meta is not None and meta.size == entry.size
        }

    async def _accepted(self, ids: Sequence[str], stored: Mapping[str, Entry]) -> Mapping[str, str]:
        """Those of `ids` that are not `stored` and will not come, with the reasons."""
        missing = [invoice_id for invoice_id in ids if invoice_id not in stored] if stored else ids
        return await self._history.accepted(missing) if missing else {}

    async def _unrecorded(self, to_fetch: Sequence[tuple[Delivery, str, bool]]) -> set[str]:
        """The keys under which an object lies that nothing known here tells of."""
        # Where two IDs can have one key, what lies there may be another invoice's: then only its bytes can tell.
        if self._looks is None or not self._keys.injective:
            return set()
        looked = [key for delivery, key, _ in to_fetch if self._looks.unrecorded or delivery.redelivered]
        found = await self._looks.head(looked) if looked else []
        there = [key for key, meta in zip(looked, found, strict=True) if meta is not None]
        if self._looks.whole is None or not there:
            return set(there)
        return {key for key, whole in zip(there, await self._looks.whole(there), strict=True) if whole}
