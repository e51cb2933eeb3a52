"""Looks at an archive as it is at this moment, beside whatever runs are at work, and holds up none of them."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import to_thread

from bulkfetch.app.open_archive import SMALL_OBJECT, bucket_settings, is_bucket, local_copy, local_root
from bulkfetch.config import Destination
from bulkfetch.durable import disk_errors, make_directory
from bulkfetch.errors import FatalError, InvoiceError, UsageError
from bulkfetch.interfaces import Objects
from bulkfetch.keys import MANIFESTS
from bulkfetch.manifest import LedgerIndex, list_runs
from bulkfetch.manifest.bucket_mirror import OPENING, Mirror
from bulkfetch.manifest.lock import taking_turns
from bulkfetch.manifest.open_run import open_ledger
from bulkfetch.retrying import persistent
from bulkfetch.stores.bucket.address import connect
from bulkfetch.stores.bucket.objects import BucketObjects

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the manifests of an archive can be read: `root`, the archive itself or a local copy of the manifests of a
    bucket, whose `objects` are then at hand. `name` is the archive as people call it, without credentials."""

    name: str
    root: Path
    objects: Objects | None

    def read(self, key: str) -> bytes | None:
        """The small file or object under `key`; None if there is none. Blocks.

        Raises:
            FatalError: it cannot be read.
        """
        try:
            if self.objects is not None:
                return persistent(partial(self.objects.read, key), OPENING, threading.Event())
            with disk_errors(f"read {self.root / key}"):
                path = self.root / key
                return path.read_bytes() if path.is_file() else None
        except FileNotFoundError:
            return None
        except InvoiceError as error:
            raise FatalError(f"cannot read {key} in the bucket: {error}") from None


@asynccontextmanager
async def look_at(settings: Destination, environ: Mapping[str, str]) -> AsyncIterator[tuple[Place, LedgerIndex]]:
    """The archive that `settings` name, and its ledger as of now, for reading only.

    In a directory nothing is created, changed or locked. The manifests of a bucket, whose credentials `environ` holds,
    are read into a local copy that serves nothing but such looks, so the next look reads only what is new.

    Raises:
        UsageError: there is no archive.
        FatalError: it cannot be read, or a manifest is damaged.
    """
    place = await find_place(settings, environ)
    ledger = await to_thread.run_sync(_open_ledger, place)
    try:
        yield place, ledger
    finally:
        ledger.close()


async def glance_at(
    settings: Destination, environ: Mapping[str, str], question: Callable[[Place, LedgerIndex], T]
) -> T:
    """What `question`, which is quickly answered, finds in the archive that `settings` name: as `look_at`, but the
    ledger is not copied. The question may be asked twice.

    Raises:
        UsageError, FatalError: as `look_at`, and `question`.
    """
    place = await find_place(settings, environ)
    return await to_thread.run_sync(_ask, place, question)


async def find_place(settings: Destination, environ: Mapping[str, str]) -> Place:
    """Where the archive is that `settings` name. It may not be there.

    Raises:
        UsageError: this is no place for an archive.
    """
    if not is_bucket(settings.url):
        root = local_root(settings.url)
        return Place(str(root), root, None)
    bucket = await connect(bucket_settings(settings), environ, patience=SMALL_OBJECT)
    copy = local_copy(bucket, settings.endpoint, environ)
    # Apart from the copies of runs, which hold them for as long as they are at work.
    return Place(bucket.name, copy.with_name(f"{copy.name}-look"), BucketObjects(bucket))


def turns_file(place: Place) -> Path:
    """The lock file by which the processes that use the local copy of `place` take turns. Makes the copy's folder."""
    with disk_errors(f"create {place.root.parent}"):
        make_directory(place.root.parent, 0o700)
    return place.root.with_name(f"{place.root.name}.lock")


def insist_on_archive(place: Place) -> None:
    """Pass if there is an archive.

    Raises:
        UsageError: there is none.
    """
    there = list_runs(place.root) if place.objects else (place.root / MANIFESTS).is_dir()
    if not there:
        raise UsageError(f"there is no archive in {place.name}: no run has written a manifest there")


def _open_ledger(place: Place) -> LedgerIndex:
    with _up_to_date(place):
        return LedgerIndex.snapshot(place.root)


def _ask(place: Place, question: Callable[[Place, LedgerIndex], T]) -> T:
    with _up_to_date(place):
        pass
    return LedgerIndex.glance(place.root, partial(question, place))


@contextmanager
def _up_to_date(place: Place) -> Iterator[None]:
    """Have the local copy of a bucket's manifests, and its ledger, hold what the bucket does; it stays so in this
    block."""
    if place.objects is None:
        insist_on_archive(place)
        yield
        return
    with taking_turns(turns_file(place)):
        mirror = Mirror(place.objects, place.root)
        mirror.pull()
        insist_on_archive(place)
        with closing(open_ledger(place.root, mirror, shared=False)):
            pass
        yield
