"""Where invoices wait whose failure time may mend: each is given two passes."""

from collections.abc import Callable
from typing import Protocol

import anyio

from bulkfetch.interfaces import Source
from bulkfetch.pipeline.job import Job

MAX_PUT_OFF = 10_000
"""How many invoices may be put off. Beyond that a failure is final at once: memory must not follow the length of the
input."""


class SecondPass(Protocol):
    """Where invoices wait that failed in a way that time may mend."""

    async def put_off(self, job: Job) -> bool:
        """Keep `job` for later; False if its failure is the last word."""
        ...

    def was_put_off(self, invoice_id: str) -> bool:
        """Whether the invoice has failed here before, in a pass of its own."""
        ...

    def forget(self, invoice_id: str) -> None:
        """The invoice has its row."""
        ...

    def take(self) -> list[Job]:
        """The jobs to do once more when all others are done; they are not kept any longer."""
        ...


class AtTheEnd:
    """For an input that hands each row out once: jobs wait here, with what they have cost, for the end of the run."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    async def put_off(self, job: Job) -> bool:
        if len(self._jobs) >= MAX_PUT_OFF:
            return False
        self._jobs.append(job)
        return True

    def was_put_off(self, invoice_id: str) -> bool:  # noqa: ARG002 - the job's `final` says so
        return False

    def forget(self, invoice_id: str) -> None:
        """Nothing to do."""

    def take(self) -> list[Job]:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.final = True
        return jobs


class BackToTheQueue:
    """For a queue, which hands out again what is nacked. A second failure is final only if other invoices were answered
    for in between: otherwise the fault may not be the invoice's.

    Args:
        answered: how many invoices this run has answered for.
    """

    def __init__(self, source: Source, answered: Callable[[], int]) -> None:
        self._source = source
        self._answered = answered
        self._answered_then: dict[str, int] = {}

    async def put_off(self, job: Job) -> bool:
        invoice_id, answered = job.delivery.invoice_id, self._answered()
        if self._answered_then.get(invoice_id, answered) < answered:
            return False
        if len(self._answered_then) >= MAX_PUT_OFF:
            # Most likely another worker got it; if not, it is given one pass more than others.
            del self._answered_then[next(iter(self._answered_then))]
        self._answered_then[invoice_id] = answered
        with anyio.CancelScope(shield=True):
            await self._source.nack(job.delivery)
        return True

    def was_put_off(self, invoice_id: str) -> bool:
        return invoice_id in self._answered_then

    def forget(self, invoice_id: str) -> None:
        self._answered_then.pop(invoice_id, None)

    def take(self) -> list[Job]:
        return []
