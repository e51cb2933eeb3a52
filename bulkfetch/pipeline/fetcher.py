"""One invoice: from its ID to a durable object, and the terms in which the manifest tells of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

import anyio

from bulkfetch.errors import Aborted, InvoiceError, PermanentError, Reason, TransientError
from bulkfetch.events import Listener, RetryScheduled
from bulkfetch.interfaces import Downloader, LinkMinter, Store
from bulkfetch.models import Delivery, Entry, Malformed, Outcome, PutResult, Row, utc_iso
from bulkfetch.retrying import Effort, RetryPolicy, retrying
from bulkfetch.text import safe


class Slot:
    """A worker's place among those that may burden the servers: held from request to last byte, free while the
    object is being made durable, so that the next invoice need not wait for this one's disk."""

    def __init__(self, places: anyio.Semaphore) -> None:
        self._places = places
        self._held = False

    async def hold(self) -> None:
        """Wait for a place, unless one is held."""
        if not self._held:
            await self._places.acquire()
            self._held = True

    def take_over(self) -> None:
        """Hold a place that was acquired for this worker."""
        self._held = True

    def release(self) -> None:
        """Give the place up, if it is held."""
        if self._held:
            self._held = False
            self._places.release()


@dataclass(frozen=True, slots=True)
class Job:
    """One delivery in a worker's hands, with the key its object will have and the account of its cost."""

    delivery: Delivery
    key: str
    effort: Effort = field(default_factory=Effort)
    adopt: bool = False
    last: bool = False


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


class RowWriter:
    """Words what happened to an input row as its manifest row."""

    def __init__(self, run: str, utc_now: Callable[[], datetime]) -> None:
        self._run = run
        self._utc_now = utc_now

    def stored(self, job: Job, result: PutResult) -> Row:
        """The object is there: just now, or adopted."""
        return self._of_job(
            job,
            Outcome.STORED,
            reason=Reason.ADOPTED if result.adopted else None,
            key=result.key,
            uri=result.uri,
            size=result.size,
            sha256=result.sha256,
            e_tag=result.e_tag,
            content_type=result.content_type,
            version_id=result.version_id,
            lock_mode=result.lock_mode,
            retain_until=result.retain_until,
        )

    def failed(self, job: Job, error: InvoiceError) -> Row:
        """The invoice was given up in this run."""
        return self._of_job(
            job,
            Outcome.FAILED,
            reason=error.reason,
            retryable=isinstance(error, TransientError),
            key=job.key,
            http_status=error.http_status,
            message=safe(str(error)),
        )

    def already_stored(self, delivery: Delivery, entry: Entry, uri: str) -> Row:
        """An earlier run stored it, and the object is in its place."""
        return self._at_once(
            delivery,
            Outcome.SKIPPED,
            Reason.ALREADY_STORED,
            key=entry.key,
            uri=uri,
            size=entry.size,
            sha256=entry.sha256,
        )

    def duplicate(self, delivery: Delivery, first_line: int | None) -> Row:
        """The same ID came before in this input."""
        where = "earlier in this input" if first_line is None else f"of line {first_line}"
        return self._at_once(delivery, Outcome.SKIPPED, Reason.DUPLICATE, message=f"duplicate {where}")

    def unusable(self, delivery: Delivery, error: PermanentError) -> Row:
        """The row's other columns do not give it a key."""
        return self._at_once(delivery, Outcome.REJECTED, error.reason, message=safe(str(error)))

    def malformed(self, row: Malformed) -> Row:
        """The row names no usable invoice."""
        delivery = Delivery(row.raw, row.line)
        return self._at_once(delivery, Outcome.REJECTED, row.reason, message=safe(row.message))

    def _of_job(self, job: Job, outcome: Outcome, **columns: object) -> Row:
        effort, finished = job.effort, self._utc_now()
        return self._row(
            job.delivery,
            outcome,
            attempts=effort.attempts,
            links=effort.links,
            started_at=utc_iso(effort.started_at),
            finished_at=utc_iso(finished),
            seconds=max(0.0, round((finished - effort.started_at).total_seconds(), 3)),
            **columns,
        )

    def _at_once(self, delivery: Delivery, outcome: Outcome, reason: Reason, **columns: object) -> Row:
        now = utc_iso(self._utc_now())
        return self._row(delivery, outcome, reason=reason, started_at=now, finished_at=now, **columns)

    def _row(self, delivery: Delivery, outcome: Outcome, **columns: object) -> Row:
        return Row(
            run=self._run,
            invoice_id=delivery.invoice_id,
            outcome=outcome,
            line=delivery.line,
            fields=delivery.fields,
            **columns,  # type: ignore[arg-type]  # each caller names Row's own columns
        )
