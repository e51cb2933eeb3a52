"""Where an invoice goes that failed and is to be tried again: to wait for its time, or for the second pass."""

from bulkfetch.errors import Deferred, InvoiceError, TransientError
from bulkfetch.net.headers import MAX_RETRY_AFTER
from bulkfetch.pipeline.in_hand import InHand
from bulkfetch.pipeline.job import Job
from bulkfetch.pipeline.not_ready import WaitingRoom
from bulkfetch.pipeline.refusals import Refusals
from bulkfetch.pipeline.second_pass import SecondPass


class Again:
    """Decides whether a failure is the last word, and keeps the jobs of which it is not."""

    def __init__(self, waiting: WaitingRoom, second_pass: SecondPass, refusals: Refusals, in_hand: InHand) -> None:
        self._waiting = waiting
        self._second_pass = second_pass
        self._refusals = refusals
        self._in_hand = in_hand

    async def last_word(self, job: Job, error: TransientError) -> InvoiceError | None:
        """The error for the row of `job`, which failed with `error`; None if it is kept here for another try."""
        if isinstance(error, Deferred):
            if (error.retry_after or 0.0) > MAX_RETRY_AFTER:
                return error  # no run waits for so long
            if await self._waiting.wait(job, error):
                return None
        judged = await self._refusals.judge(job, error)
        if judged is error and error.second_pass and not job.final and await self._second_pass.put_off(job):
            self._in_hand.ended()
            return None
        return judged

    def until_its_time(self, job: Job) -> bool:
        """Let `job` wait until `Job.not_before`; False if that time has come."""
        return self._waiting.until_its_time(job)

    def is_fresh(self, job: Job) -> bool:
        """Whether `job` has not failed in a pass of its own before."""
        return not (job.final or self._second_pass.was_put_off(job.delivery.invoice_id))

    async def room(self) -> None:
        """Wait until another invoice may come to wait."""
        await self._waiting.room()

    def forget(self, invoice_id: str) -> None:
        """The invoice has its row."""
        self._second_pass.forget(invoice_id)
        self._waiting.forget(invoice_id)

    def take_put_off(self) -> list[Job]:
        """The jobs to do once more when all others are done; they are not kept any longer."""
        return self._second_pass.take()

    def take_waiting(self) -> list[Job]:
        """The jobs whose time has not come; they are not kept any longer, and in hand no more."""
        return self._waiting.take()
