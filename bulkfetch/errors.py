"""What can go wrong, in the three dispositions that the rest of the program acts on.

    BulkfetchError
    ├── InvoiceError            concerns one invoice; carries the manifest's `reason`
    │   ├── TransientError      try this invoice again
    │   │   ├── OriginError     the origin failed, not the invoice: counts towards its breaker
    │   │   ├── Throttled       the origin asked for a pause: never charged to an invoice
    │   │   ├── LinkRefused     the link died: mint again, under a cap of its own
    │   │   ├── LinkAged        the link grew old in our own queue
    │   │   ├── UnexpectedAnswer  outside the contract: ask once more
    │   │   ├── BadBody         whole, but not a PDF
    │   │   ├── NotReady        the document is not there yet: it is waited for
    │   │   │   └── NoLink      the API said yes, and named no link
    │   │   └── SingledOut      refused alone, again and again
    │   └── PermanentError      give this invoice up
    ├── FatalError              stop the run; `exit_code` says how
    │   ├── UsageError          exit 2
    │   ├── ArchiveLocked       exit 7
    │   ├── DamagedManifest     what is there is not what a run wrote
    │   ├── Refused             a bucket refuses the request as such (stores/bucket/errors.py)
    │   ├── UnresolvedHost      a host's name has no address (net/addresses.py)
    │   ├── LeaseEnded          SQS knows the lease no more (queues/sqs/errors.py)
    │   └── QueueMissing        SQS has no such queue (queues/sqs/errors.py)
    └── Aborted                 the run is closing: not a failure of anything
        └── Interrupted         somebody asked for that (pipeline/stop.py)

`str(error)` is always safe to print: vendor errors, whose text may hold a link or a token, are mapped to these once,
at the edge, and never chained into a message.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, Self


class ExitCode(IntEnum):
    """The process's exit codes, a contract for scripts (README, "Exit codes")."""

    COMPLETE = 0
    BUG = 1
    USAGE = 2
    FAILED = 3
    FAILED_RETRYABLE = 4
    STOPPED = 5
    VERIFY_FAILED = 6
    LOCKED = 7
    SIGINT = 130
    SIGTERM = 143


class Reason(StrEnum):
    """The fixed words of a manifest row's `reason`."""

    ALREADY_STORED = "already_stored"
    ADOPTED = "adopted"
    DUPLICATE = "duplicate"
    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"

    NOT_FOUND = "not_found"
    INVALID_REQUEST = "invalid_request"
    UNPROCESSABLE = "unprocessable"
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BAD_RESPONSE = "bad_response"
    LINK_REFUSED = "link_refused"
    LINK_EXPIRED = "link_expired"
    TRUNCATED = "truncated"
    NOT_PDF = "not_pdf"
    TOO_LARGE = "too_large"
    DIGEST_MISMATCH = "digest_mismatch"
    CONFLICT = "conflict"
    STORE_ERROR = "store_error"
    INVALID_ID = "invalid_id"
    INVALID_ROW = "invalid_row"
    NOT_READY = "not_ready"
    WRONG_DOCUMENT = "wrong_document"
    INTERNAL_ERROR = "internal_error"
    POISON = "poison"


class BulkfetchError(Exception):
    """Base of every error raised on purpose; `str()` of it holds no secret."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A whole body that came and is not to be archived: SHA-256 in lower-case hex, and bytes."""

    sha256: str
    size: int


class InvoiceError(BulkfetchError):
    """One invoice could not be fetched; `reason`, `http_status` and `refused` go into its manifest row.

    `hold` says that a whole body arrived but must not be archived: the store keeps its bytes aside in quarantine.
    """

    refused: Refused | None = None
    """The whole body that was refused, where the error is about one."""

    def __init__(self, reason: Reason, message: str, *, http_status: int | None = None, hold: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.http_status = http_status
        self.hold = hold

    def about(self, size: int, sha256: str) -> Self:
        """This error, with size and SHA-256 of the body that was refused."""
        self.refused = Refused(sha256, size)
        return self


class TransientError(InvoiceError):
    """Try this invoice again. `charged` says whether the try counts against the invoice's attempts."""

    tries: ClassVar[int | None] = None
    """How often one invoice may meet this kind of error; None: until its attempts are used up."""

    second_pass: ClassVar[bool] = True
    """Whether time may mend it: then the invoice is tried once more at the end of the run."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        http_status: int | None = None,
        hold: bool = False,
        charged: bool = True,
    ) -> None:
        super().__init__(reason, message, http_status=http_status, hold=hold)
        self.charged = charged


class OriginError(TransientError):
    """The origin failed (5xx, connection, time-out). A row of these opens the origin's breaker."""


class Throttled(TransientError):
    """The origin asked for a pause. `retry_after` is in seconds; None where it named no usable time."""

    tries = 20  # no invoice that alone is refused for ever may hold up the others for as long

    def __init__(
        self, reason: Reason, message: str, *, http_status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(reason, message, http_status=http_status, charged=False)
        self.retry_after = retry_after


class LinkRefused(TransientError):
    """The download host refused the link, which may have expired: a new one is asked for, twice at most."""

    tries = 3
    second_pass = False


class LinkAged(TransientError):
    """The link grew old while its host could not be asked, which is nobody's fault: a new one is asked for."""

    tries = 20

    def __init__(self, message: str) -> None:
        super().__init__(Reason.LINK_EXPIRED, message, charged=False)


class UnexpectedAnswer(TransientError):
    """An answer outside the contract (no link in it, a status nobody knows): asked once more, then given up."""

    tries = 2
    second_pass = False


class BadBody(TransientError):
    """A whole body arrived that is not a PDF; `refused` tells whether the next try brings the same bytes."""

    refused: Refused

    def __init__(self, reason: Reason, message: str, *, refused: Refused, hold: bool = False) -> None:
        super().__init__(reason, message, hold=hold)
        self.refused = refused


class NotReady(TransientError):
    """The document is not there yet: the invoice waits, in nobody's hands, and no try is charged for it.

    `retry_after` is in seconds; None where the server named no usable time.
    """

    tries = 1

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        http_status: int | None = None,
        hold: bool = False,
        retry_after: float | None = None,
        refused: Refused | None = None,
    ) -> None:
        super().__init__(reason, message, http_status=http_status, hold=hold, charged=False)
        self.retry_after = retry_after
        self.refused = refused


class NoLink(NotReady):
    """The API said yes and named no link: it may be making one, or it may be another API."""

    second_pass = False


class SingledOut(TransientError):
    """A refusal that meets this invoice alone: it is put off to the end of the run, and stops nobody else."""

    tries = 1


class PermanentError(InvoiceError):
    """Give this invoice up; another run would meet the same answer."""


class FatalError(BulkfetchError):
    """Stop the run: no further invoice is begun, and what is in hand is charged with nothing."""

    exit_code: ClassVar[ExitCode] = ExitCode.STOPPED


class UsageError(FatalError):
    """The command line, configuration or input cannot be used; the message names the place and the fix."""

    exit_code = ExitCode.USAGE


class ArchiveLocked(FatalError):
    """Another run holds this archive."""

    exit_code = ExitCode.LOCKED


class DamagedManifest(FatalError):
    """A manifest holds something that is not a whole row."""


class Aborted(BulkfetchError):
    """The run is closing; the invoice goes back to where it came from."""


def first_error(error: Exception) -> Exception:
    """The first error that is no group: `error` itself, or what the exception group `error` holds, however deep."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
