"""One invoice: from its ID to its body in the store's hands, as one unit that is tried again as a whole."""

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import TypeVar

from bulkfetch.errors import Aborted, Reason, TransientError
from bulkfetch.events import Listener, RetryScheduled
from bulkfetch.interfaces import Body, Committed, Downloader, LinkMinter, Store
from bulkfetch.pipeline.job import Job
from bulkfetch.retrying import RetryPolicy, retrying

T = TypeVar("T")

_BLOCK = 1024 * 1024


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
        return await self._tried(job, partial(self._put, job, committed, fresh, None))

    async def fetch_only(self, job: Job, committed: Committed, sha256: str) -> int:
        """As `fetch`, but nothing except a body with this SHA-256 reaches the store: any other is a TransientError."""
        return await self._tried(job, partial(self._put, job, committed, True, sha256))

    async def digest(self, job: Job) -> str:
        """SHA-256 of the body that the invoice's link brings now, read to its verified end; nothing is kept of it.

        Raises:
            BulkfetchError: as `fetch`.
        """
        return await self._tried(job, partial(self._read, job))

    async def try_again(self, job: Job, failed: TransientError, committed: Committed, *, fresh: bool = True) -> int:
        """Go on with `job`, whose last try ended in `failed`; else as `fetch`."""
        return await self._go_on(job, failed, partial(self._put, job, committed, fresh, None))

    async def _tried(self, job: Job, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()
        except TransientError as error:
            failed = error
        return await self._go_on(job, failed, attempt)

    async def _go_on(self, job: Job, failed: TransientError, attempt: Callable[[], Awaitable[T]]) -> T:
        # The loop meets the failure as its first try: it costs much, and most invoices need but one try.
        before: list[TransientError] = [failed]

        def before_wait(error: TransientError, wait: float) -> None:
            if self._stopping():
                raise Aborted("the run is ending")
            self._notify(RetryScheduled(job.delivery.invoice_id, error.reason, str(error), wait))

        async def next_attempt() -> T:
            if before:
                raise before.pop()
            return await attempt()

        return await retrying(job.effort, self._policy, rng=self._rng, before_wait=before_wait)(next_attempt)

    async def _put(self, job: Job, committed: Committed, fresh: bool, sha256: str | None) -> int:
        body = await self._open(job, fresh)
        try:
            return await self._store.put(
                job.key,
                body if sha256 is None else _Only(body, sha256),
                fields=job.delivery.fields,
                put_before=job.effort.put_before,
                committed=committed,
            )
        finally:
            body.close()

    async def _read(self, job: Job) -> str:
        body = await self._open(job, fresh=True)
        try:
            while await body.gather([], _BLOCK):
                pass
            return body.sha256
        finally:
            body.close()

    async def _open(self, job: Job, fresh: bool) -> Body:
        effort = job.effort
        effort.attempts += 1
        link = await self._minter.mint(job.delivery.invoice_id, fresh=fresh)
        effort.links += 1
        return await self._downloader.open(link, last_bad_sha256=effort.last_bad_sha256)


class _Only:
    """A `Body` that does not end well unless it has this SHA-256."""

    def __init__(self, body: Body, sha256: str) -> None:
        self.content_type = body.content_type
        self.sha256 = sha256
        self._body = body

    @property
    def size(self) -> int:
        return self._body.size

    async def gather(self, chunks: list[bytes], limit: int) -> bool:
        more = await self._body.gather(chunks, limit)
        if not more and self._body.sha256 != self.sha256:
            raise TransientError(Reason.WRONG_DOCUMENT, "the link brings another document each time")
        return more

    def close(self) -> None:
        self._body.close()
