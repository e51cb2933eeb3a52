"""What became of a run's rows, in numbers."""

from collections import Counter
from collections.abc import Sequence

from bulkfetch.interfaces import Source
from bulkfetch.models import Counts, Outcome, Row


class Tally:
    """The sum of the rows that were recorded.

    `reasons` are counted by the manifest's words. `answered` counts the invoices of which something is known for good:
    they are stored, or no retry would mend their failure.
    """

    def __init__(self) -> None:
        self.stored = self.skipped = self.failed = self.rejected = 0
        self.reasons: Counter[str] = Counter()
        self.bytes_stored = 0
        self.retryable_failures = 0
        self.answered = 0

    @property
    def total(self) -> int:
        """All rows."""
        return self.stored + self.skipped + self.failed + self.rejected

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
        self.reasons.update(row.reason for row in rows if row.reason is not None)
        outcomes = Counter(row.outcome for row in rows)
        self.stored += outcomes[Outcome.STORED]
        self.skipped += outcomes[Outcome.SKIPPED]
        self.failed += outcomes[Outcome.FAILED]
        self.rejected += outcomes[Outcome.REJECTED]
        if outcomes[Outcome.STORED] or outcomes[Outcome.FAILED]:
            for row in rows:
                if row.outcome is Outcome.STORED:
                    self.bytes_stored += row.size or 0
                elif row.outcome is Outcome.FAILED:
                    self.retryable_failures += row.retryable
        self.answered = self.stored + self.failed - self.retryable_failures
