"""Is a document that cannot be archived the server's last word? Only time can tell: the same bytes, in another run."""

from bulkfetch.errors import InvoiceError, PermanentError, Reason, TransientError
from bulkfetch.interfaces import History
from bulkfetch.pipeline.job import Job


class Refusals:
    """Compares what was refused with what an earlier run refused. The same bytes twice within moments prove nothing."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def judge(self, job: Job, error: TransientError) -> InvoiceError:
        """`error`, or the PermanentError that it is where an earlier run was sent the same bytes for `job`."""
        if error.refused is None:
            return error
        earlier = await self._history.refused(job.delivery.invoice_id)
        if earlier != error.refused.sha256:
            return error
        permanent = PermanentError(
            Reason.NOT_PDF, f"{error}; the same bytes came in an earlier run", http_status=error.http_status
        )
        permanent.refused = error.refused
        return permanent
