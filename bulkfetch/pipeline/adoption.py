"""Decides about an object that was there before: whose is it, and what becomes of the invoice that met it?"""

from bulkfetch.errors import BulkfetchError, PermanentError, Reason
from bulkfetch.interfaces import Committed, History, Landed, Store, Taken
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Entry, PutResult, Row
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.siblings import Siblings
from bulkfetch.pipeline.tally import NAME_TAKEN
from bulkfetch.text import printable

_EXPECTED = 10_000
"""How many of the latest keys are kept. Far fewer are on their way at a time."""


class Adoption:
    """Decides on objects that this run did not put for the invoice that meets them.

    Where `{id}` stands alone between two slashes, what is under an invoice's key is its own, unless the manifests name
    another one for it. In every other template it is its own only if the manifests say so, or if nobody can come to
    name it and the bytes are equal. What is another's stays: the invoice takes its alternative key.

    Mutable: `_expected`, which invoice was the latest to be put under a key; None where several were.
    """

    def __init__(self, *, store: Store, history: History, rows: RowWriter, keys: KeyTemplate) -> None:
        self._store = store
        self._history = history
        self._rows = rows
        self._keys = keys
        self._expected: dict[str, str | None] = {}
        self._siblings = Siblings()

    def expect(self, job: Job) -> None:
        """Take note that an object for `job` may come under its key before a row says so."""
        if self._keys.injective:
            return
        mine = job.delivery.invoice_id
        self._expected[job.key] = mine if self._expected.pop(job.key, mine) == mine else None
        if len(self._expected) > _EXPECTED:
            del self._expected[next(iter(self._expected))]

    async def look(self, job: Job) -> Row | None:
        """The row for `job` if the whole PDF under its key is its own; None if it has to be fetched."""
        found = await self._store.adopt(job.key)
        if found is None:
            return None
        entry, owner = await self._known(job, found.key, wait=True)
        if entry is not None and _is(entry, found):
            return self._rows.already_stored(job.delivery)
        # A row about other bytes is that of an object that was lost, and fetched anew by a run that died.
        return self._rows.stored(job, found) if owner in (None, job.delivery.invoice_id) else None

    async def settle(self, job: Job, taken: Taken, committed: Committed) -> Row | None:
        """The row for `job`, whose body met `taken`; None if the body is in the store's hands again, under the
        alternative key: then `committed` will be told.

        Raises:
            PermanentError: `conflict`: the object is the invoice's own, and its content differs.
            TransientError, FatalError: from the store.
        """
        # What carries the digest of an invoice is its own in every template.
        sure = self._keys.injective or job.yielded
        try:
            entry, owner = await self._known(job, taken.key, wait=taken.exact)
            other = self._other(job, taken, owner, sure=sure)
            row = await self._own(job, taken, entry) if other is None else None
        except BaseException:
            await taken.drop()
            raise
        if row is not None:
            await taken.drop()
        elif other is None or job.yielded:
            raise await conflict(taken)
        else:
            job.yielded = True
            job.key = self._keys.alternative(job.delivery.invoice_id, job.delivery.fields)
            job.note = f"{NAME_TAKEN}{other}"
            await taken.put(job.key, committed)
        return row

    def _other(self, job: Job, taken: Taken, owner: str | None, *, sure: bool) -> str | None:
        """Why the object that `job` met, which is `owner`'s by the manifests, is not its own, in words; None if it is.

        `sure` says that no other invoice can have this name in the template of this run.
        """
        mine, key = job.delivery.invoice_id, printable(taken.key, 200)
        if not taken.exact:
            return f"this disk takes {printable(job.key, 200)} for {key}"
        if owner is not None:
            return None if owner == mine else f"{key} is that of invoice {printable(owner, 200)}"
        if sure or (taken.same and self._expected.get(job.key) == mine):
            return None
        return f"{key} is an object that no row names"

    async def _own(self, job: Job, taken: Taken, entry: Entry | None) -> Row | None:
        """The row for `job`, which met its own object; None if that has other content than `entry`, its row, says, or
        is no whole PDF."""
        found = taken.found
        if found is not None and entry is not None and _is(entry, found):
            return self._rows.already_stored(job.delivery)
        if found is not None and taken.same:
            return self._rows.stored(job, found)
        whole = await self._store.adopt(taken.key) if entry is None else None
        if whole is None:
            return None
        note = f"adopted as it was; what came now has other bytes ({taken.sha256[:12]})"
        job.note = f"{job.note}; {note}" if job.note else note
        return self._rows.stored(job, whole)

    async def _known(self, job: Job, key: str, *, wait: bool) -> tuple[Entry | None, str | None]:
        """What the manifests say of the object under `key`: this invoice's entry for it, or else the ID of the one that
        it is. `wait` for other runs at work, whose row comes behind the object."""
        mine = job.delivery.invoice_id
        entry: Entry | None = None
        owner: str | None = None

        async def look() -> bool:
            nonlocal entry, owner
            if not self._history.alone:
                await self._history.refresh()
            entry = (await self._history.stored([mine])).get(mine)
            if entry is not None and entry.key == key:
                owner = mine
            else:
                entry, owner = None, await self._history.owner(key)
            return owner is not None

        if wait and not self._history.alone:
            await self._siblings.have_row(look)
        else:
            await look()
        return entry, owner


async def conflict(taken: Taken) -> PermanentError:
    """The error for an invoice whose own name has other content; the body that came is kept aside."""
    kept = await taken.keep()
    found = taken.found
    there = "something that is no regular file" if found is None else f"an object with SHA-256 {found.sha256[:12]}"
    return PermanentError(
        Reason.CONFLICT,
        f"{printable(taken.key, 120)} is {there}; the new bytes ({taken.sha256[:12]}) are "
        + (f"in {printable(kept, 250)}" if kept else "not kept"),
    ).about(taken.size, taken.sha256)


async def object_of(landed: Landed) -> PutResult:
    """The object that a body has become, or had become before.

    Raises:
        PermanentError: `conflict`: another one has its name.
        BulkfetchError: what the store says of it.
    """
    if isinstance(landed, BulkfetchError):
        raise landed
    if isinstance(landed, PutResult):
        return landed
    if landed.found is None or not landed.same:
        raise await conflict(landed)
    await landed.drop()
    return landed.found


def _is(entry: Entry, found: PutResult) -> bool:
    return (entry.key, entry.size, entry.sha256) == (found.key, found.size, found.sha256)
