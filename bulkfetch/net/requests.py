"""Counts the requests to an origin by what became of them."""

from dataclasses import dataclass

from bulkfetch.errors import InvoiceError, LinkAged, LinkRefused, OriginError, Reason, SingledOut, Throttled

REFUSALS = frozenset({401, 402, 403, 429, 451, 503})
"""The statuses by which a server says that it does not serve this client, or not now."""

_NO_WHOLE_ANSWER = frozenset({Reason.TRUNCATED, Reason.DIGEST_MISMATCH})


@dataclass(slots=True)
class Requests:
    """What a gate has let through: `sent`, which is the sum of the others once nothing is under way.

    `refused` counts every refusal, whatever its status: of a rate, of the client, or of a link. `failed` had no whole
    answer, or one of a server in trouble (5xx). `abandoned` were given up from here. `answered` are all others, an
    answer such as "not found" included.

    `answered_since` are the answers to requests that began after the latest refusal or failure: those under way at that
    moment prove nothing.
    """

    sent: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    abandoned: int = 0
    answered_since: int = 0

    def ended(self, error: BaseException | None) -> None:
        """Count a request that was `sent` and ended in `error`; None is an answer."""
        match error:
            case LinkAged():
                self.sent -= 1  # nothing was sent
            case Throttled() | SingledOut() | LinkRefused():
                self.refused += 1
            case InvoiceError(http_status=status) if status in REFUSALS:
                self.refused += 1
            case OriginError() | InvoiceError(reason=Reason.CONNECTION):
                self.failed += 1
            case InvoiceError(reason=reason) if reason in _NO_WHOLE_ANSWER:
                self.failed += 1
            case None | Exception():
                self.answered += 1
            case _:
                self.abandoned += 1
