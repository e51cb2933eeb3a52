"""One invoice: from its ID to a durable object."""

from collections.abc import Callable
from random import Random

from bulkfetch.errors import Aborted, TransientError
from bulkfetch.events import Event, RetryScheduled
from bulkfetch.interfaces import Downloader, LinkMinter, Store
from bulkfetch.models import PutResult
from bulkfetch.pipeline.job import Job, Slot
from bulkfetch.retrying import RetryPolicy, retrying


class Fetcher:
    """Runs the retried unit: mint, open, put. A link outlives no back-off, so every try asks for a new one."""

    def __init__(
        self,
        minter: LinkMinter,
        downloader: Downloader,
        store: Store,
        *,
        policy: RetryPolicy,
        rng: Random,
        stopping: Callable[[], bool],
        notify: Callable[[Event], None],
    ) -> None:
        self._minter = minter
        self._downloader = downloader
        self._store = store
        self._policy = policy
        self._rng = rng
        self._stopping = stopping
        self._notify = notify

    async def fetch(self, job: Job, slot: Slot) -> PutResult:
        """The durable object for `job`.

        Raises:
            TransientError: the tries of this pass are used up.
            PermanentError: there is no use in trying.
            FatalError: the run cannot go on.
            Aborted: the run is ending, and another try would begin.
        """
        failed: list[TransientError] = []
        try:
            return await self._attempt(job, slot)
        except TransientError as error:
            # The loop is told of it below: it costs much, and most invoices need but one try.
            failed.append(error)

        def before_wait(error: TransientError, wait: float) -> None:
            if self._stopping():
                raise Aborted("the run is ending")
            self._notify(RetryScheduled(job.delivery.invoice_id, error.reason, str(error), wait))

        async def attempt() -> PutResult:
            if failed:
                raise failed.pop()
            return await self._attempt(job, slot)

        return await retrying(job.effort, self._policy, rng=self._rng, before_wait=before_wait)(attempt)

    async def _attempt(self, job: Job, slot: Slot) -> PutResult:
        await slot.hold()
        effort = job.effort
        effort.attempts += 1
        link = await self._minter.mint(job.delivery.invoice_id)
        effort.links += 1
        async with self._downloader.open(link, suspect=effort.suspect) as body:
            return await self._store.put(
                job.key, body, received=slot.release, fields=job.delivery.fields, tried=effort.tried
            )
