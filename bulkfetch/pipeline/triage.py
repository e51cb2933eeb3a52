"""What has to be fetched of what a source hands out, and what is known already."""

from collections.abc import Mapping, Sequence

from bulkfetch.errors import PermanentError
from bulkfetch.interfaces import History, Source, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Delivery, Entry, InputRow, Malformed, Row
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.rows import RowWriter


class Admission:
    """Tells rows that need no fetching from jobs.

    Args:
        adopting: look for objects without a row before fetching (after a run that died).
    """

    def __init__(
        self, *, source: Source, ledger: History, store: Store, rows: RowWriter, keys: KeyTemplate, adopting: bool
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._store = store
        self._rows = rows
        self._keys = keys
        self._adopting = adopting

    async def admit(self, batch: Sequence[InputRow]) -> tuple[list[tuple[InputRow, Row]], list[Job]]:
        """What needs no fetching, with its rows, and what does, in order. Changes nothing."""
        settled: list[tuple[InputRow, Row]] = []
        deliveries: list[Delivery] = []
        for row in batch:
            if isinstance(row, Malformed):
                settled.append((row, self._rows.malformed(row)))
            else:
                deliveries.append(row)
        repeats = await self._repeats(deliveries)
        stored = await self._still_stored([delivery.invoice_id for delivery in deliveries])
        to_fetch: list[tuple[Delivery, str]] = []
        for index, delivery in enumerate(deliveries):
            if index in repeats:
                settled.append((delivery, self._rows.duplicate(delivery, repeats[index])))
            elif entry := stored.get(delivery.invoice_id):
                settled.append((delivery, self._rows.already_stored(delivery, entry, self._store.uri(entry.key))))
            else:
                try:
                    to_fetch.append((delivery, self._keys.key_for(delivery.invoice_id, delivery.fields)))
                except PermanentError as error:
                    settled.append((delivery, self._rows.unusable(delivery, error)))
        return settled, await self._jobs(to_fetch)

    async def _repeats(self, deliveries: Sequence[Delivery]) -> Mapping[int, int | None]:
        """Which of `deliveries` are duplicates; none where a second one may be the first one's redelivery."""
        if self._source.redelivers:
            return {}
        return await self._ledger.find_repeats([(delivery.invoice_id, delivery.line) for delivery in deliveries])

    async def _still_stored(self, ids: Sequence[str]) -> dict[str, Entry]:
        """Which of `ids` an earlier run stored, and the store still holds as far as that can be asked in time: a row
        alone is not an object."""
        stored = await self._ledger.stored(ids)
        if not self._store.cheap_head:
            return dict(stored)
        entries = list(stored.items())
        found = await self._store.head([entry.key for _, entry in entries])
        return {
            invoice_id: entry
            for (invoice_id, entry), meta in zip(entries, found, strict=True)
            if meta is not None and meta.size == entry.size
        }

    async def _jobs(self, to_fetch: Sequence[tuple[Delivery, str]]) -> list[Job]:
        looked = [(delivery, key) for delivery, key in to_fetch if self._may_be_there(delivery)]
        found = await self._store.head([key for _, key in looked]) if looked else []
        there = {key for (_, key), meta in zip(looked, found, strict=True) if meta is not None}
        return [Job(delivery, key, adopt=key in there, last=delivery.final) for delivery, key in to_fetch]

    def _may_be_there(self, delivery: Delivery) -> bool:
        """Whether to look for an object that nothing known here tells of, before it is fetched."""
        if not self._keys.injective:
            # Where two IDs can have one key, what lies there may be another invoice's: then only its bytes can tell.
            return False
        others_at_work = self._source.redelivers and self._store.cheap_head
        return self._adopting or delivery.redelivered or others_at_work
