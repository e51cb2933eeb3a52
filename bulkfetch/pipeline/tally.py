"""What became of a run's rows, in numbers."""

from collections import Counter

from bulkfetch.models import Counts, Outcome, Row


class Tally:
    """The sum of the rows that were recorded.

    `reasons` are counted by the manifest's words. `answered` counts the invoices of which something is known for good:
    they are stored, or no retry would mend their failure.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.reasons: Counter[str] = Counter()
        self.bytes_stored = 0
        self.retryable_failures = 0
        self.answered = 0

    def add(self, row: Row) -> None:
        """Count one row."""
        if row.reason is not None:
            self.reasons[row.reason] += 1
        match row.outcome:
            case Outcome.STORED:
                self.counts.stored += 1
                self.bytes_stored += row.size or 0
                self.answered += 1
            case Outcome.SKIPPED:
                self.counts.skipped += 1
            case Outcome.REJECTED:
                self.counts.rejected += 1
            case Outcome.FAILED:
                self.counts.failed += 1
                self.retryable_failures += row.retryable
                self.answered += not row.retryable
