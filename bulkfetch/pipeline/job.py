"""One invoice on its way: what is known of it, and what it has cost."""

from dataclasses import dataclass, field

from bulkfetch.errors import BulkfetchError
from bulkfetch.interfaces import Taken
from bulkfetch.models import Delivery
from bulkfetch.retrying import Effort


@dataclass(slots=True)
class Patience:
    """How often an invoice was waited for because its document was not ready, for how many seconds in all, and how
    often it was refused."""

    waits: int = 0
    waited: float = 0.0
    refusals: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """A delivery on its way to its row, with the key its object will have.

    Mutable are `key`, `yielded`, `note`, `final`, `landed`, `in_memory`, `not_before` and what is in `effort` and
    `patience`. The job is in one place at a time: with a worker, with the store, or among the jobs that wait or were
    put off.

    Args:
        adopt: look for an object without a row before fetching.
        yielded: something else has the plain name, so `key` is the alternative one.
        note: what the row's message says of an object that is stored.
        not_before: the event loop's time before which the server wants no further request for it.
        final: a failure is the last word; the invoice is not put off again.
        in_memory: bytes of its body that are in memory until the store says what became of it.
        landed: what the store said after it had taken the body: its name is taken, or why there is no object.
    """

    delivery: Delivery
    key: str
    adopt: bool = False
    yielded: bool = False
    note: str | None = None
    final: bool = False
    in_memory: int = 0
    landed: Taken | BulkfetchError | None = None
    effort: Effort = field(default_factory=Effort)
    patience: Patience = field(default_factory=Patience)
    not_before: float = 0.0
