"""Is an origin out of service? Then nothing that fails is charged to an invoice."""

BREAKER_FAILURES = 20
"""The origin is taken to be down when so many different invoices fail in a row, without an answer in between. A few
invoices that always fail, at the end of a list, are too few for that."""

PROBE_WAIT_FIRST = 1.0  # 1 s, 2 s, 4 s … between the probes of an outage
PROBE_WAIT_MAX = 30.0


class Breaker:
    """Counts the invoices that failed since the last answer. Mutable: that set, and the number of probes."""

    def __init__(self) -> None:
        self._failing: set[object] = set()
        self._probes = 0

    @property
    def open(self) -> bool:
        """Whether the origin is down."""
        return len(self._failing) >= BREAKER_FAILURES

    def failed(self, invoice: object) -> None:
        """Count the failure of `invoice`, which had not failed in a pass of its own before."""
        if not self.open:
            self._failing.add(invoice)

    def answered(self) -> None:
        """The origin is there."""
        self._failing.clear()
        self._probes = 0

    def next_wait(self) -> float:
        """Seconds until the next probe; they double from probe to probe."""
        wait = probe_wait(self._probes)
        self._probes += 1
        return wait


def probe_wait(before: int) -> float:
    """Seconds until the next probe, after `before` of them in vain."""
    return float(min(PROBE_WAIT_MAX, PROBE_WAIT_FIRST * 2.0 ** min(before, 10)))
