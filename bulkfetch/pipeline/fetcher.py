"""One invoice: from its ID to its body in the store's hands, as one unit that is tried again as a whole."""

from collections.abc import Callable
from random import Random

from bulkfetch.errors import Aborted, TransientError
from bulkfetch.events import Listener, RetryScheduled
from bulkfetch.interfaces import Committed, Downloader, LinkMinter, Store
from bulkfetch.pipeline.job import Job
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
        notify: Listener,
    ) -> None:
        self._minter = minter
        self._downloader = downloader
        self._store = store
        self._policy = policy
        self._rng = rng
        self._stopping = stopping
        self._notify = notify

    async def fetch(self, job: Job, committed: Committed, *, fresh: bool = True) -> int:
        """Bring the body of `job` into the store's hands. Returns what `Store.put` does: how many bytes of it are in
        memory until `committed` is called.

        `fresh` says that the invoice has not failed in a pass of its own before.

        Raises:
            TransientError: the tries of this pass are used up.
            PermanentError: there is no use in trying.
            FatalError: the run cannot go on.
            Aborted: the run is ending, and another try would begin.
        """
        try:
            return await self._attempt(job, committed, fresh)
        except TransientError as error:
            failed = error
        return await self.try_again(job, failed, committed, fresh=fresh)

    async def try_again(self, job: Job, failed: TransientError, committed: Committed, *, fresh: bool = True) -> int:
        """Go on with `job`, whose last try ended in `failed`; else as `fetch`."""
        # The loop meets the failure as its first try: it costs much, and most invoices need but one try.
        before: list[TransientError] = [failed]

        def before_wait(error: TransientError, wait: float) -> None:
            if self._stopping():
                raise Aborted("the run is ending")
            self._notify(RetryScheduled(job.delivery.invoice_id, error.reason, str(error), wait))

        async def attempt() -> int:
            if before:
                raise before.pop()
            return await self._attempt(job, committed, fresh)

        return await retrying(job.effort, self._policy, rng=self._rng, before_wait=before_wait)(attempt)

    async def _attempt(self, job: Job, committed: Committed, fresh: bool) -> int:
        effort = job.effort
        effort.attempts += 1
        link = await self._minter.mint(job.delivery.invoice_id, fresh=fresh)
        effort.links += 1
        body = await self._downloader.open(link, last_bad_sha256=effort.last_bad_sha256)
        try:
            return await self._store.put(
                job.key, body, fields=job.delivery.fields, put_before=effort.put_before, committed=committed
            )
        finally:
            body.close()
