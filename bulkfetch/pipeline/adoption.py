"""Decides about an object that was there before: is it this invoice's own, and does it have a row?"""

from bulkfetch.errors import PermanentError, Reason
from bulkfetch.interfaces import History, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Entry, PutResult, Row
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.text import printable


class Adoption:
    """Decides on objects that this run did not put.

    Args:
        shared: other runs work on the archive at the same time, and may have recorded the object meanwhile.
    """

    def __init__(self, *, store: Store, history: History, rows: RowWriter, keys: KeyTemplate, shared: bool) -> None:
        self._store = store
        self._history = history
        self._rows = rows
        self._keys = keys
        self._shared = shared

    async def look(self, job: Job) -> PutResult | None:
        """The whole PDF that lies under the key of `job`; None if there is none."""
        return await self._store.adopt(job.key)

    async def row(self, job: Job, found: PutResult) -> Row:
        """The row for `job`, whose object `found` was there before.

        Raises:
            PermanentError: `conflict`: it is another invoice's.
        """
        if await self._recorded_meanwhile(job, found):
            return self._rows.already_stored(job.delivery)
        # Two invoices with the same bytes under the same key are one too few, whatever the template.
        owner = await self._history.owner(job.key)
        if owner not in (None, job.delivery.invoice_id):
            raise PermanentError(
                Reason.CONFLICT, f"{printable(job.key, 120)} is the object of invoice {printable(owner, 120)}"
            ).about(found.size, found.sha256)
        return self._rows.stored(job, found)

    async def instead_of_conflict(self, job: Job, error: PermanentError) -> PutResult | None:
        """The object that stands in the way of `job`, if it can only be this invoice's own; None where `error` is the
        last word. Another worker of the queue may have put it: some servers render a document anew for every
        download."""
        if error.reason is not Reason.CONFLICT or not self._shared or not self._keys.injective:
            return None
        return await self._store.adopt(job.key)

    async def _recorded_meanwhile(self, job: Job, found: PutResult) -> bool:
        """Whether another run has a row for the object. A row for an object that was lost and fetched anew is about
        other bytes, and does not count."""
        if not self._shared:
            return False
        await self._history.refresh()
        entry = (await self._history.stored([job.delivery.invoice_id])).get(job.delivery.invoice_id)
        return entry == Entry(found.key, found.size, found.sha256)
