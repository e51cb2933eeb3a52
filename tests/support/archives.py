"""Small archives of each kind, on a directory, on a disk that is blind to case, and in a bucket; and runs into them."""

import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from urllib.parse import quote

import anyio

from bulkfetch.app.open_archive import bucket_settings
from bulkfetch.app.open_pipeline import open_pipeline
from bulkfetch.config import Destination
from bulkfetch.errors import PermanentError, Reason
from bulkfetch.events import Event, RowsRecorded
from bulkfetch.interfaces import Body, History, Store
from bulkfetch.keys import KeyTemplate
from bulkfetch.manifest import ManifestWriter
from bulkfetch.models import Delivery, Link, Row
from bulkfetch.pipeline.fetcher import Fetcher
from bulkfetch.pipeline.pool import Pool
from bulkfetch.pipeline.stop import Stop
from bulkfetch.retrying import RetryPolicy
from bulkfetch.stores import LocalStore
from bulkfetch.stores.bucket.address import connect
from bulkfetch.stores.bucket.objects import BucketObjects
from support.buckets import connected
from support.doubles import GivenBody, GivenQueue, GivenSource
from support.rows import summary
from support.seaweed import Seaweed

PREFIX = "archive"
Documents = Mapping[str, bytes | None]


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass
class Origins:
    """An API and a download host in memory, which serve `documents` by invoice ID; None is an invoice that nobody has.
    `asked` are the IDs in the order in which their links were minted; `wait` is awaited before each answer."""

    documents: Documents
    asked: list[str] = field(default_factory=list)
    wait: Callable[[str], object] | None = None

    async def mint(self, invoice_id: str, *, fresh: bool = True) -> Link:
        """A link for the invoice."""
        self.asked.append(invoice_id)
        if self.documents.get(invoice_id) is None:
            raise PermanentError(Reason.NOT_FOUND, "no such invoice")
        return Link(invoice_id, 0.0, 600)

    async def open(self, link: Link, *, last_bad_sha256: str | None = None) -> Body:
        """The invoice's document."""
        document = self.documents[link.url]
        assert document is not None
        return GivenBody(document)


@dataclass
class Run:
    """What a run has left: its rows by invoice ID, its tally, and the IDs that the API was asked for."""

    rows: dict[str, Row]
    pool: Pool
    asked: list[str]

    def told(self) -> dict[str, tuple[str, str | None, str | None]]:
        """Outcome, reason and key by invoice ID."""
        return {
            invoice_id: (str(row.outcome), row.reason and str(row.reason), row.key)
            for invoice_id, row in self.rows.items()
        }


class Archive:
    """An archive in `root`, or in `bucket` of `seaweed` with its local copy in `root`."""

    def __init__(self, root: Path, seaweed: Seaweed | None = None) -> None:
        self.root = root
        self._seaweed = seaweed
        self._bucket = seaweed.bucket() if seaweed else ""

    @property
    def in_bucket(self) -> bool:
        """Whether it is in a bucket."""
        return self._seaweed is not None

    async def run(
        self, template: str, rows: Sequence[Delivery], documents: Documents, *, shared: bool = False, workers: int = 4
    ) -> Run:
        """Make a run over `rows` that ends complete; one that is `shared` reads a queue."""
        source = GivenQueue(rows) if shared else GivenSource(rows)
        recorded: list[Row] = []

        def notify(event: Event) -> None:
            if isinstance(event, RowsRecorded):
                recorded.extend(event.rows)

        origins, stop = Origins(documents), Stop()
        async with self.opened(shared=shared) as (manifest, history, store, run, adopting):
            fetcher = Fetcher(
                origins,
                origins,
                store,
                policy=RetryPolicy(attempts=2, wait_initial=1e-3, wait_max=1e-3, timeout=0),
                rng=Random(0),
                stopping=stop.requested.is_set,
                notify=notify,
            )
            pool = open_pipeline(
                run,
                source=source,
                manifest=manifest,
                history=history,
                store=store,
                fetcher=fetcher,
                keys=KeyTemplate.parse(template),
                stop=stop,
                notify=notify,
                utc_now=utc_now,
                workers=workers,
                drain=5.0,
                max_failed_ratio=1.0,
                adopting=adopting,
                shared=shared,
            )
            with anyio.fail_after(30.0):
                await pool.run()
            await manifest.finish(summary(finished=True))
        assert stop.cause is None, stop.cause
        return Run({row.invoice_id: row for row in recorded}, pool, origins.asked)

    @asynccontextmanager
    async def opened(self, *, shared: bool = False) -> AsyncIterator[tuple[ManifestWriter, History, Store, str, bool]]:
        """Manifest, history and store of a new run, its ID, and whether it looks for objects without a row."""
        objects = None
        if self._seaweed is not None:
            objects = BucketObjects(await connect(bucket_settings(self._settings()), self._seaweed.environ))
        async with ManifestWriter.open(self.root, clock=utc_now, objects=objects, shared=shared) as manifest:
            opening = (
                LocalStore.open(self.root, manifest.run)
                if self._seaweed is None
                else connected(self._settings(), self._seaweed, spool=self.root / "spool")
            )
            async with opening as store:
                yield manifest, manifest.history, store, manifest.run, manifest.adopting

    def _settings(self) -> Destination:
        return Destination(url=f"s3://{self._bucket}/{PREFIX}")

    def plant(self, key: str, data: bytes) -> None:
        """Put an object there, past everything that is tested."""
        if self._seaweed is not None:
            self._seaweed.request("PUT", f"/{self._bucket}/{PREFIX}/{quote(key)}", {}, body=data)
            return
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(data)

    def objects(self) -> dict[str, bytes]:
        """What is archived, by key."""
        if self._seaweed is not None:
            keys = [key.removeprefix(f"{PREFIX}/") for key in self._seaweed.keys(self._bucket)]
            return {
                key: self._seaweed.request("GET", f"/{self._bucket}/{PREFIX}/{quote(key)}", {}).body
                for key in keys
                if not key.startswith((".bulkfetch/", "manifests/"))
            }
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.relative_to(self.root).parts[0] not in (".bulkfetch", "manifests")
        }

    def elsewhere(self) -> "Archive":
        """The same archive in a bucket, as another machine has it, with nothing local."""
        assert self._seaweed is not None
        other = Archive(self.root.with_name(f"{self.root.name}-elsewhere"))
        other._seaweed, other._bucket = self._seaweed, self._bucket
        return other

    def lose_ledger(self) -> None:
        """Delete what is rebuilt from the manifests: the ledger, and of a bucket all that is on this machine."""
        if self._seaweed is not None:
            shutil.rmtree(self.root)
            return
        for file in (self.root / ".bulkfetch").glob("ledger*"):
            file.unlink()
