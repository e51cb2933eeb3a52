"""The values that travel between the parts: all immutable, none knows how it is made or kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from bulkfetch.errors import Reason

NO_FIELDS: Mapping[str, str] = {}
NO_LINES: Mapping[str, int] = {}

ROW_VERSION = 1
"""The version of the manifest's rows."""


class Delivery(msgspec.Struct, frozen=True):
    """One invoice to fetch, as a source handed it out.

    `line` is the input's line (1-based) where there is one; `fields` are the input's other columns; `tag` is the
    source's own handle for `ack` and `nack`. `redelivered` says that it was handed out before, to a worker that may
    have done part of the work. `final` says that it will not be handed out again, so a failure is the last word.
    """

    invoice_id: str
    line: int | None = None
    fields: Mapping[str, str] = NO_FIELDS
    tag: object = None
    redelivered: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class Malformed:
    """An input row that names no usable invoice: it is never sent anywhere, and gets a `rejected` row.

    `raw` is the offending text, escaped and shortened for display.
    """

    raw: str
    reason: Reason
    message: str
    line: int | None = None
    tag: object = None


InputRow = Delivery | Malformed


class Secret:
    """A value that shows itself only to whoever asks for it: `str`, `repr` and formatting print `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; for the header builder, and nothing else."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class Link:
    """A minted download link. The URL is a credential, so it is in no repr.

    `minted_at` is monotonic seconds, `valid_seconds` the life that was asked for. `invoice_id` is for whom;
    `fresh` says that this has not failed in a pass of its own before.
    """

    url: str = field(repr=False)
    minted_at: float
    valid_seconds: int
    invoice_id: str | None = None
    fresh: bool = True


class ObjectMeta(msgspec.Struct, frozen=True):
    """An object that a store holds: `size` in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What an object holds: bytes, and their SHA-256 in lower-case hex; or in words why it could not be read (`flaw`).

    `noted` says that this is the store's own checksum, kept since the object was put: nothing was downloaded.
    """

    size: int
    sha256: str
    flaw: str | None = None
    noted: bool = False


@dataclass(frozen=True, slots=True)
class PutResult:
    """A durable object: what is under `key` has exactly this `size` (bytes) and `sha256` (lower-case hex).

    `adopted` says that the object was there before, and was left untouched. What a bucket with
    versions and Object Lock says of it: `version_id`, `lock_mode`, and `retain_until` (ISO 8601), as read back.
    """

    key: str
    uri: str
    size: int
    sha256: str
    e_tag: str | None = None
    content_type: str | None = None
    adopted: bool = False
    version_id: str | None = None
    lock_mode: str | None = None
    retain_until: str | None = None


class Entry(msgspec.Struct, frozen=True):
    """What the manifests say of a stored invoice's object: `size` in bytes, `sha256` in lower-case hex."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """A message in a worker's hands, with its `body` and the driver's own `handle` on it. No two leases are equal.

    `deliveries` is how often the message was handed out to be tried: this time included, releases left out.
    `redelivered` says that somebody had it in hand before, if only to release it.
    """

    body: bytes
    deliveries: int
    handle: object = field(repr=False)
    redelivered: bool


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that no worker is to try again by itself, version 1: the message as it was (`body`), and why.

    `reason` is the manifest's word, `deliveries` as in its `Lease`, `failed_at` UTC ISO 8601, `run` the run
    whose manifest holds the row.
    """

    v: int = 1
    invoice_id: str
    reason: str
    message: str | None
    deliveries: int
    failed_at: str
    run: str
    body: str


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages wait, how many are in workers' hands, and how many dead letters there are. A message that waits
    out a delay is `leased` where the engine counts it so."""

    waiting: int
    leased: int
    dead: int


class Outcome(StrEnum):
    """The terminal outcome of one input row."""

    STORED = "stored"
    SKIPPED = "skipped"
    FAILED = "failed"
    REJECTED = "rejected"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest row: what finally became of one input row.

    `key` is relative to the destination. `size` and `sha256` are the object's; of a failed row those of the bytes that
    came and were no PDF. `attempts` counts the tries charged or not, `links` the links minted.
    Times are UTC ISO 8601, `seconds` the wall time between them. `message` is escaped, at most 500 characters.

    `corrects`, which only a correction row has, is the position (0 for the first) of an earlier row in the same
    manifest, with the same ID and line. This row takes its place: the object that it named is the invoice's no more.
    A correction row is `stored` or `failed`, and its `finished_at` is not before that of the row it corrects.
    """

    v: int = ROW_VERSION
    run: str
    invoice_id: str
    outcome: Outcome
    reason: Reason | None = None
    retryable: bool = False
    key: str | None = None
    uri: str | None = None
    size: int | None = None
    sha256: str | None = None
    e_tag: str | None = None
    content_type: str | None = None
    version_id: str | None = None
    lock_mode: str | None = None
    retain_until: str | None = None
    attempts: int = 0
    links: int = 0
    http_status: int | None = None
    message: str | None = None
    started_at: str
    finished_at: str
    seconds: float = 0.0
    line: int | None = None
    fields: Mapping[str, str] = NO_FIELDS
    corrects: int | msgspec.UnsetType = msgspec.UNSET


class SkippedRow(Row, frozen=True, kw_only=True, omit_defaults=True):
    """A row that needed no fetching. It leaves out whatever the row of the stored object says already: a nightly list
    is mostly made of such rows."""

    v: int


class Counts(msgspec.Struct, kw_only=True):
    """How many input rows ended in which outcome; `read` is all of them."""

    read: int = 0
    stored: int = 0
    skipped: int = 0
    failed: int = 0
    rejected: int = 0

    def balanced(self) -> bool:
        """Whether every row that was read ended in exactly one outcome (promise P2)."""
        return self.read == self.stored + self.skipped + self.failed + self.rejected


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one kind: `sent` is the sum of what became of them. `refused` counts every refusal, whatever its
    status; `failed` had no whole answer, or a 5xx; `abandoned` were given up from here; the rest was `answered`."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    abandoned: int = 0


RUN = "run"
ACCEPT = "accept"
"""What wrote a manifest, by the `kind` of its summary: a run, or a person's word on gaps."""


RETRY_SOURCE = "retry"
"""What a run is said to have read that tries again what is unresolved."""


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a run. The manifest turns it into the run's `Summary`.

    `finished` says that the input was read to its end and every row has an outcome; `complete` says that, and that the
    exit code is 0: nothing is missing. Times are UTC ISO 8601, `seconds` is the run's length. `requests` has the kinds
    "links" and "downloads". `not_rows` counts the input's lines that are no rows, by their kind. `corrected` counts the
    correction rows: `counts` has each input row once, by what finally became of it. `names_taken` counts the objects
    that were stored under a key with a digest because something else had the plain name.
    """

    kind: str = RUN
    exit_code: int
    finished: bool
    complete: bool
    stopped_by: str | None
    started_at: str
    finished_at: str
    seconds: float
    counts: Counts
    corrected: int = 0
    reasons: Mapping[str, int]
    bytes_stored: int
    names_taken: int = 0
    requests: Mapping[str, RequestCounts]
    not_rows: Mapping[str, int] = NO_LINES
    source: str
    input_sha256: str | None
    input_bytes: int | None
    destination: str
    versions: Mapping[str, str]


class SealedPart(msgspec.Struct, frozen=True):
    """The first `bytes` bytes of a manifest, and their SHA-256 in lower-case hex."""

    bytes: int
    sha256: str


class Summary(RunResult, frozen=True, kw_only=True):
    """A run's sealed record, written last: a run that has one ended in order.

    `shared` says that others could be at work on the archive at the same time. `manifest` names the run's rows below
    `manifests/`; `manifest_sha256` is the SHA-256 of them all, in hex. `previous` and `previous_sha256` name and seal
    the summary before this one, which makes a chain of hashes. `beside` maps the names of summaries by runs at work at
    the same time, which no other summary follows, to their SHA-256. `unfinished` seals, by run, what there was of the
    manifests of runs without a summary, as far as no earlier summary does.
    """

    v: int = 1
    run: str
    shared: bool = False
    manifest: str
    manifest_rows: int
    manifest_sha256: str
    previous: str | None
    previous_sha256: str | None
    beside: Mapping[str, str]
    unfinished: Mapping[str, SealedPart]


def utc_iso(moment: datetime) -> str:
    """`moment` in UTC as ISO 8601 with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
