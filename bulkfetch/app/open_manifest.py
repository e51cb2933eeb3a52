"""Opens the manifest of a run, which holds the archive: at once, or when another run has ended."""

import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from datetime import datetime
from functools import partial
from pathlib import Path

import anyio

from bulkfetch.durable import disk_errors, make_directory
from bulkfetch.errors import ArchiveLocked
from bulkfetch.events import Listener, Note
from bulkfetch.interfaces import Objects
from bulkfetch.manifest import ManifestWriter
from bulkfetch.manifest.lock import ArchiveLock, Holder
from bulkfetch.models import utc_iso

COPIES = 64
"""The most runs that share one bucket from one machine: each has its own copy of the bucket's manifests."""

_LOOK = 0.5


async def open_manifest(
    stack: AsyncExitStack,
    root: Path,
    objects: Objects | None,
    *,
    shared: bool,
    patience: float,
    clock: Callable[[], datetime],
    notify: Listener,
) -> tuple[ManifestWriter, Path]:
    """The manifest of a new run, open until `stack` is closed, and its directory.

    That is `root`, or with `objects` (a bucket's, of whose manifests `root` is the local copy) one beside it where
    other runs share the archive. Another run that holds the archive is waited for, `patience` seconds at most.

    Raises:
        ArchiveLocked: another run still holds the archive.
        FatalError: as `ManifestWriter.open`.
    """
    deadline = anyio.current_time() + patience
    told = False
    while True:
        try:
            if objects is None:
                return await stack.enter_async_context(ManifestWriter.open(root, clock=clock, shared=shared)), root
            return await _open_copy(stack, root, objects, shared=shared, clock=clock)
        except ArchiveLocked as error:
            left = deadline - anyio.current_time()
            if left <= 0:
                raise
            if not told:
                notify(Note("warning", f"waiting up to {left:.0f} s: {error}"))
                told = True
        await anyio.sleep(min(_LOOK, left))


async def _open_copy(
    stack: AsyncExitStack, root: Path, objects: Objects, *, shared: bool, clock: Callable[[], datetime]
) -> tuple[ManifestWriter, Path]:
    async with AsyncExitStack() as opened:
        lock = await anyio.to_thread.run_sync(partial(_hold, root.with_name(f"{root.name}.lock"), shared=shared))
        opened.enter_context(closing(lock))
        manifest, place = await _free_copy(opened, root, objects, shared=shared, clock=clock)
        lock.sign(Holder(pid=os.getpid(), host=socket.gethostname(), started_at=utc_iso(clock()), run=manifest.run))
        stack.push_async_exit(opened.pop_all())
        return manifest, place


def _hold(path: Path, *, shared: bool) -> ArchiveLock:
    """The lock of all local copies of one bucket's manifests."""
    with disk_errors(f"create {path.parent}"):
        make_directory(path.parent, 0o700)
    lock = ArchiveLock.acquire(path, shared=shared)
    if shared and lock.alone:
        lock.share()
    return lock


async def _free_copy(
    stack: AsyncExitStack, root: Path, objects: Objects, *, shared: bool, clock: Callable[[], datetime]
) -> tuple[ManifestWriter, Path]:
    for number in range(1, COPIES + 1):
        place = root.with_name(f"{root.name}-{number}") if number > 1 else root
        opening = ManifestWriter.open(place, clock=clock, objects=objects, shared=shared)
        try:
            return await stack.enter_async_context(opening), place
        except ArchiveLocked:
            if number == COPIES:
                raise
    raise AssertionError  # the last round returns or raises
