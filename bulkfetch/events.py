"""What happens during a run, as values. Whoever wants to show, log or count it is a `Listener`."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from bulkfetch.errors import Reason
from bulkfetch.models import Row, Summary


class Origin(StrEnum):
    """What a run asks for something, as events and messages name it."""

    API = "API"
    DOWNLOAD_HOST = "download host"
    OBJECT_STORE = "object store"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run is about to read its source; `total` is the number of rows expected, None if unknown.

    `rows` is the local file that holds each row, as a line of JSON, when its `RowsRecorded` comes.
    """

    run: str
    source: str
    destination: str
    total: int | None
    rows: Path | None = None


@dataclass(frozen=True, slots=True)
class RowsRecorded:
    """Manifest rows that became durable together, in their order; never none."""

    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class RowCorrected:
    """A correction row is durable: it takes the place of a row that was recorded before."""

    row: Row


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A try failed and the invoice is tried again after `wait` seconds."""

    invoice_id: str
    reason: Reason
    message: str
    wait: float


@dataclass(frozen=True, slots=True)
class OriginDown:
    """Every request to `origin` waits, for about `seconds`."""

    origin: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class OriginUp:
    """Requests to `origin` flow again."""

    origin: str


@dataclass(frozen=True, slots=True)
class Estimated:
    """The number of rows expected is now thought to be `total`."""

    total: int | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many invoices are left in the queue: `waiting`, and `leased`, which any worker has in hand or has put off."""

    waiting: int
    leased: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person should know."""

    level: Literal["info", "warning", "error"]
    message: str


@dataclass(frozen=True, slots=True)
class RunStopping:
    """The run takes no more work, and ends when what is in hand is finished; `reason` says who or what stopped it."""

    reason: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The summary is durable; nothing follows."""

    summary: Summary


Event = (
    RunStarted
    | RowsRecorded
    | RowCorrected
    | RetryScheduled
    | OriginDown
    | OriginUp
    | Estimated
    | Backlog
    | Note
    | RunStopping
    | RunFinished
)


class Listener(Protocol):
    """Hears every event, in order, on the event loop's thread: it must be quick and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take note of `event`."""
        ...
