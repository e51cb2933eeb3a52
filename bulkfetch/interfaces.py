"""The seams: what the pipeline asks of each part. An implementation passes the contract suite of its Protocol."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from bulkfetch.errors import BulkfetchError
from bulkfetch.models import (
    NO_FIELDS,
    DeadLetter,
    Entry,
    InputRow,
    Lease,
    Link,
    ObjectMeta,
    PutResult,
    QueueStats,
    ReadBack,
    Row,
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a source is like.

    `comes_again`: what is nacked or released is handed out again while the run lasts. `repeats`: a second row with the
    same ID is no duplicate in the input. `shared`: other processes take from it, too, and share the archive.
    `telling_blocks`: ack, nack and release wait for a server.
    """

    comes_again: bool = False
    repeats: bool = False
    shared: bool = False
    telling_blocks: bool = False


class Source(Protocol):
    """Where invoice IDs come from."""

    name: str
    """How the source is called in logs and summaries; holds no credentials."""

    capabilities: Capabilities

    handed_out: int
    """How many rows `batches` has handed out so far."""

    returned: int
    """How many of them came back by `nack` or `release`."""

    @property
    def not_rows(self) -> Mapping[str, int]:
        """How many lines so far were no rows, by kind: `blank`, `comment`, `ghost` (nothing but delimiters), `header`
        (once more). They are in no other count."""
        ...

    def batches(self) -> AsyncIterator[Sequence[InputRow]]:
        """Hand out what is available, in order, each input row exactly once (a queue: at least once).

        A batch is never empty and is bounded by a constant, not by the input. The iterator ends when the input does.

        Raises:
            UsageError: the input as a whole cannot be read as what it claims to be.
            FatalError: reading failed in the middle.
        """
        ...

    async def ack(self, input_row: InputRow, row: Row) -> None:
        """Say that `input_row` is accounted for durably, by `row`; it will not be handed out again. Never raises: at
        worst a queue hands it out once more."""
        ...

    async def nack(self, input_row: InputRow) -> None:
        """Hand `input_row` back for later: it failed just now, and this counts as a delivery. Never raises."""
        ...

    async def release(self, input_row: InputRow, delay: float = 0.0) -> None:
        """Hand `input_row` back untried, to be handed out again after `delay` seconds where that can be; this does not
        count as a delivery. Never raises."""
        ...

    def estimate(self) -> int | None:
        """How many rows the whole input is thought to have, for a progress display; None if unknown."""
        ...

    def digest(self) -> tuple[str, int] | None:
        """SHA-256 (hex) and length in bytes of the input as read; None where an input has no bytes or was not
        read to its end."""
        ...


class LinkMinter(Protocol):
    """Asks the billing API for a download link."""

    async def mint(self, invoice_id: str, *, fresh: bool = True) -> Link:
        """A new link for `invoice_id`; `fresh` says that it has not failed in a pass of its own before.

        Raises:
            TransientError, PermanentError, FatalError: by disposition; nothing of the token is in them.
        """
        ...


class Body(Protocol):
    """An open download. The checks (length, digest, PDF head and tail) are part of the reading: a body that fails one
    raises *instead of ending*, so whoever reads to the end holds verified bytes.
    """

    content_type: str | None

    async def gather(self, chunks: list[bytes], limit: int) -> bool:
        """Append what arrives to `chunks`, never an empty chunk. True as soon as more than `limit` bytes arrived, False
        at the verified end.

        Raises:
            TransientError: the body is not what was promised (cut, not a PDF, wrong digest), or stopped coming.
            PermanentError: it is larger than allowed, or wrong in the same way twice (then `hold` is set).
        """
        ...

    @property
    def size(self) -> int:
        """Bytes so far."""
        ...

    @property
    def sha256(self) -> str:
        """Lower-case hex of all bytes so far."""
        ...

    def close(self) -> None:
        """Give the connection up, if the body was not read to its end; once more is harmless."""
        ...


class Downloader(Protocol):
    """Opens a link. Knows no token."""

    async def open(self, link: Link, *, last_bad_sha256: str | None = None) -> Body:
        """The link's body, which the caller closes. `last_bad_sha256` is the digest of a body that failed the PDF check
        before: if the same bytes come again, the error carries `hold`.

        Raises:
            TransientError, PermanentError: by disposition; nothing of the link but its host is in them.
        """
        ...


class Taken(Protocol):
    """A verified body whose name something else has. It waits for one of `put`, `keep` and `drop`."""

    key: str
    """The name, as it is spelt there: only a disk that is blind to case can have it in another spelling."""

    exact: bool
    """Whether the last part of `key` is spelt as it was asked for."""

    found: PutResult | None
    """The object there, durable and `adopted`; None where it is no object, but a folder or a link."""

    same: bool
    """Whether the object there has the content of this body, or of an earlier one of the same invoice."""

    size: int
    """Of the body that waits, in bytes."""

    sha256: str
    """Of the body that waits."""

    async def put(self, key: str, committed: "Committed") -> None:
        """Put the body under `key` in place of the name that is taken; else as `Store.put`.

        Raises:
            InvoiceError, FatalError: as `Store.put`.
        """
        ...

    async def keep(self) -> str | None:
        """Keep the body aside for a person to look at, durably; where, for a message. None if it was not kept."""
        ...

    async def drop(self) -> None:
        """Give the body up."""
        ...


Landed = PutResult | Taken | BulkfetchError
"""What became of a body: its object, now durable; or it waits, since the name is taken; or why there is no object:
TransientError, FatalError."""

Committed = Callable[[Landed], None]
"""Told once, on the event loop, what became of a body that a store has taken."""


class Store(Protocol):
    """Where objects are kept. Nothing partial or unverified is ever visible under a key."""

    name: str
    """The destination as shown and recorded: a path or URL without credentials."""

    cheap_head: bool
    """Whether a run can afford `head` for every object that the manifests name; else it takes their word."""

    async def put(
        self,
        key: str,
        body: Body,
        *,
        committed: Committed,
        fields: Mapping[str, str] = NO_FIELDS,
        put_before: dict[str, int] | None = None,
    ) -> int:
        """Read `body` to its end and take it over; how many bytes of it are in memory until `committed` is called.

        `committed` is called after `put` has returned. From the body's end until then no cancellation is heeded.

        An object of which `committed` is told is durable under `key`; where a disk blind to case has a folder of it in
        another spelling, under that. An object that exists is never replaced: `committed` is told that the name is
        taken, and whoever knows whose it is decides what becomes of the body. `fields` are the input's other columns. A
        store may find in them for how long the object is to be kept.

        `put_before` belongs to one invoice, and the caller keeps it from one put to the next. A store that may lose the
        answer to a put notes in it the SHA-256 and size of each body. An object with one of these digests is then the
        invoice's own.

        Raises:
            InvoiceError: whatever `body` raises, unchanged; or the store failed for this object.
            FatalError: the store is unusable (full, read-only, credentials refused).
        """
        ...

    async def head(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """What is under each of `keys`, in their order; None where there is nothing."""
        ...

    async def find_lost(self, sizes: Mapping[str, int]) -> Mapping[str, int | None]:
        """Look once more at objects that this run has put, keys with their sizes: those that are not there so, with the
        size that is there, None where there is nothing. A store that made them durable itself need not look.
        """
        ...

    async def adopt(self, key: str) -> PutResult | None:
        """Take over an object that this run did not put: read it, hash it, check that it is a whole PDF, and make it
        durable. None if there is no such object under exactly `key`.
        """
        ...

    async def set_aside(self, key: str) -> bool:
        """Move what is under `key` to quarantine, durably, since it is another invoice's; `key` is free then. False if
        it cannot be moved (Object Lock): it stays, and `key` is taken for good.

        Raises:
            FatalError: the store is unusable.
        """
        ...

    def uri(self, key: str) -> str:
        """Where `key` is, as recorded in the manifest; holds no credentials."""
        ...

    def get(self, key: str) -> AsyncIterator[bytes]:
        """The object's bytes in chunks.

        Raises:
            FileNotFoundError: there is none.
        """
        ...


class Manifest(Protocol):
    """The durable record of a run: one row for each input row."""

    async def append(self, rows: Sequence[Row]) -> None:
        """Record `rows`; on return they are durable, all of them.

        Raises:
            FatalError: the manifest cannot be written; none of `rows` counts as recorded.
        """
        ...

    async def find(self, ids: Collection[str]) -> Sequence[tuple[int, Row]]:
        """The durable rows of this run about any of `ids`, in order, each with its position (0 for the first); a
        correction row comes in the place, and under the position, of the row that it corrects.

        Raises:
            FatalError: the manifest cannot be read.
        """
        ...

    def stop_waiting(self) -> None:
        """Wait no longer for a disk or bucket in trouble. Every `append`, under way or later, ends soon; if the medium
        still fails, with an error. Returns at once."""
        ...


class History(Protocol):
    """Knows, in memory that does not grow with the archive, what earlier runs stored and what this run has seen."""

    alone: bool
    """Whether no other run can record anything at the same time."""

    async def stored(self, ids: Sequence[str]) -> Mapping[str, Entry]:
        """Those of `ids` that a manifest row names as stored, with what it says of the object."""
        ...

    async def refused(self, invoice_id: str) -> str | None:
        """The SHA-256 of the bytes that came for the invoice when it last failed, if some came and were no PDF."""
        ...

    async def accepted(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Those of `ids` that are accepted as gaps, which will not come, each with the reason that was given. An
        invoice that a row names as stored is not among them."""
        ...

    async def owner(self, key: str) -> str | None:
        """The ID of the invoice whose object is under `key` by the manifests; None if there is no such row."""
        ...

    async def find_repeats(self, rows: Sequence[tuple[str, int | None]]) -> Mapping[int, int | None]:
        """The repeated IDs among `rows` (ID, input line): the index of each, with the line where its ID came first. An
        ID repeats if this run has seen it before, in this batch or an earlier one. New IDs are remembered."""
        ...

    async def refresh(self) -> None:
        """Take in what other runs on this archive have recorded meanwhile."""
        ...


class Objects(Protocol):
    """Small whole objects below a prefix of a bucket, for a thread: every call blocks.

    Raises (all of them):
        TransientError: the call may be made again.
        FatalError: the bucket cannot be used.
    """

    def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key`, durably.

        Raises:
            FileExistsError: there is an object already; it stays as it is.
        """
        ...

    def read(self, key: str) -> bytes:
        """The object under `key`.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectMeta]:
        """The objects whose keys begin with `prefix` and sort behind `after`, in the order of their keys, as they are
        asked for."""
        ...

    def level(self, folder: str) -> tuple[Sequence[ObjectMeta], Sequence[str]]:
        """The objects directly in `folder`, and the folders directly in it; a folder ends with a slash.

        The listing goes in the order of keys: an object that is put meanwhile is missed only if its key sorts before
        what was listed already."""
        ...


class Queue(Protocol):
    """A message queue of invoices, shared by many workers, at least once: what is leased and not acknowledged in time
    is handed out again. Every call may be made at any time between opening and closing, from many tasks.

    Raises (all of them):
        TransientError: the broker did not answer; the call may be made again.
        FatalError: the queue is gone, or cannot be used as it is set up.
    """

    name: str
    """The queue's URL without credentials."""

    lease_seconds: float
    """How long a lease lasts unless it is extended."""

    async def put(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Queue `messages`, pairs of invoice ID and body, durably; return how many of them are new. A message whose ID
        is queued already stays as it is, where the engine can tell."""
        ...

    async def fetch(self, limit: int, wait: float) -> Sequence[Lease]:
        """Lease up to `limit` messages; none if there are none within about `wait` seconds."""
        ...

    async def ack(self, lease: Lease) -> None:
        """Remove the message: on return it is gone for good."""
        ...

    async def nack(self, lease: Lease, delay: float) -> None:
        """Hand back a message that failed here, to be leased again after `delay` seconds."""
        ...

    async def release(self, lease: Lease, delay: float) -> None:
        """Hand back a message that was not tried, to be leased again after `delay` seconds. This delivery does not
        count."""
        ...

    async def extend(self, leases: Sequence[Lease]) -> None:
        """Let each of `leases` last for another `lease_seconds` from now."""
        ...

    async def dead(self, lease: Lease, dead_letter: DeadLetter) -> None:
        """Put `dead_letter` durably among the dead letters, and then remove the message. A dead letter that is put
        twice is kept once, where the engine can tell."""
        ...

    async def stats(self) -> QueueStats:
        """How much there is. SQS only gives estimates."""
        ...

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """The dead letters, oldest first. They stay where they are."""
        ...

    async def requeue(self, dead_letter: DeadLetter) -> None:
        """Queue the message of `dead_letter`, which `dead_letters` gave, once more, and then remove `dead_letter`."""
        ...

    async def forget(self, dead_letter: DeadLetter) -> None:
        """Remove `dead_letter`, which `dead_letters` gave, for good."""
        ...

    def shared_rate(
        self, name: str, *, rate: float, patience: float, on_pause: Callable[[float], None]
    ) -> AbstractAsyncContextManager["SharedRate | None"]:
        """The rate shared by all workers that open the same `name` on this queue: to the billing API they are one
        client. None where the engine has nothing to build it on.

        Args:
            rate: links a second that all of them together may ask for; 0 for any number.
            patience: seconds without the shared state after which nobody goes on.
            on_pause: told for how many seconds from now another worker asks everybody to pause.
        """
        ...


class SharedRate(Protocol):
    """The rate that all workers of one queue share."""

    async def reserve(self) -> float:
        """The moment, on the event loop's clock, at which the caller may ask for a link. Moments given to any two
        calls, in whatever workers, are as far apart as the rate demands.

        Raises:
            FatalError: the shared state has been out of reach for too long.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Let every other worker pause for `seconds` from now: the API asked for it. Does not wait for them."""
        ...


class Reader(Protocol):
    """Reads an archive back. It creates and changes nothing, and needs no right to."""

    at_once: int
    """How many objects are best asked for in one call of `contents`."""

    def listing(self, ignored: Callable[[str], bool]) -> Iterator[ObjectMeta]:
        """Everything that lies in the archive, in any order, in flat memory; blocks. What is `ignored` is left out: it
        is asked of keys, and of folders, which end with a slash.

        Raises:
            FatalError: it cannot be listed.
            TransientError: the listing broke off.
        """
        ...

    async def sizes(self, keys: Sequence[str]) -> Sequence[ObjectMeta | None]:
        """What is under each of `keys`, in their order; None where there is nothing."""
        ...

    async def contents(self, keys: Sequence[str]) -> Sequence[ReadBack | None]:
        """What each of the objects under `keys` holds, in their order; None where there is none.

        Raises:
            FatalError: the store does not answer.
        """
        ...
