"""What became of a run's rows, in numbers."""

from collections import Counter
from collections.abc import Sequence

from bulkfetch.interfaces import Source
from bulkfetch.models import Counts, Outcome, Row

NAME_TAKEN = "name taken: "
"""How the message of a stored row begins whose key carries a digest because something else has the plain name."""


class Tally:
    """The sum of the rows that were recorded.

    `reasons` are counted by the manifest's words. `answered` counts the invoices of which something is known for good:
    they are stored, or no retry would mend their failure. `corrected` counts the correction rows: each moves its input
    row from one outcome to another, and adds none. `names_taken` counts the stored rows whose plain name something else
    had. `read_to_end` is set by whoever reads the input.
    """

    def __init__(self) -> None:
        self.stored = self.skipped = self.failed = self.rejected = self.corrected = 0
        self.reasons: Counter[str] = Counter()
        self.bytes_stored = 0
        self.names_taken = 0
        self.retryable_failures = 0
        self.answered = 0
        self.read_to_end = False

    @property
    def total(self) -> int:
        """All rows."""
        return self.stored + self.skipped + self.failed + self.rejected

    def finished(self, source: Source) -> bool:
        """Whether `source` was read to its end, and each of its rows has an outcome."""
        # What a queue gets back is handed out again, and was accounted for when its end was reached.
        handed_back = 0 if source.capabilities.comes_again else source.returned
        return self.read_to_end and self.counts(source).balanced() and not handed_back

    def counts(self, source: Source) -> Counts:
        """The rows by outcome beside those that `source` handed out and did not get back."""
        return Counts(
            read=source.handed_out - source.returned,
            stored=self.stored,
            skipped=self.skipped,
            failed=self.failed,
            rejected=self.rejected,
        )

    def add(self, rows: Sequence[Row]) -> None:
        """Count `rows`."""
        self._count(rows, 1)

    def correct(self, row: Row, correction: Row) -> None:
        """Count `correction`, which takes the place of `row`."""
        self._count([row], -1)
        self._count([correction], 1)
        self.reasons += Counter()  # drops those that are no row's reason any more
        self.corrected += 1

    def _count(self, rows: Sequence[Row], by: int) -> None:
        for reason, number in Counter(row.reason for row in rows if row.reason is not None).items():
            self.reasons[reason] += by * number
        outcomes = Counter(row.outcome for row in rows)
        self.stored += by * outcomes[Outcome.STORED]
        self.skipped += by * outcomes[Outcome.SKIPPED]
        self.failed += by * outcomes[Outcome.FAILED]
        self.rejected += by * outcomes[Outcome.REJECTED]
        if outcomes[Outcome.STORED]:
            stored = [row for row in rows if row.outcome is Outcome.STORED]
            self.bytes_stored += by * sum(row.size or 0 for row in stored)
            self.names_taken += by * sum(
                row.message is not None and row.message.startswith(NAME_TAKEN) for row in stored
            )
        if outcomes[Outcome.FAILED]:
            self.retryable_failures += by * sum(row.retryable for row in rows if row.outcome is Outcome.FAILED)
        self.answered = self.stored + self.failed - self.retryable_failures
