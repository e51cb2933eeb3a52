"""What a whole group of commits meets: errors of a disk, a conflict, a close while work waits."""

import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.puts import settled
from support.syscalls import WITH_STRACE, failing

from bulkfetch.errors import FatalError, PermanentError, TransientError
from bulkfetch.interfaces import Landed
from bulkfetch.models import PutResult
from bulkfetch.stores.local.errors import Destination
from bulkfetch.stores.local.group_commit import Commit, GroupCommitter
from bulkfetch.stores.local.tree import Tree
from bulkfetch.stores.quarantine import Quarantine

pytestmark = pytest.mark.anyio

DATA = b"%PDF-"
THREAD = "bulkfetch-store"


class Held(tuple[bytes, ...]):
    """Chunks that the thread cannot write before `go` is set: what is submitted meanwhile is the next group."""

    reached: threading.Event
    go: threading.Event

    def __len__(self) -> int:
        self.reached.set()
        assert self.go.wait(30)
        return super().__len__()


class Disk:
    """A committer, and what it told of each key."""

    def __init__(self, root: Path, tree: Tree) -> None:
        self.root = root
        self.tree = tree
        self.committer = GroupCommitter(tree, Destination(tree.name)).start()
        self.told: dict[str, Landed] = {}
        self._heard = anyio.Event()

    def submit(self, key: str, chunks: tuple[bytes, ...] = (DATA,), *, told_as: str | None = None) -> None:
        """Hand the committer an object, whose outcome is kept under its key or `told_as`."""
        data = b"".join(chunks)
        promised = PutResult(key=key, uri=self.tree.uri(key), size=len(data), sha256=hashlib.sha256(data).hexdigest())
        committed = partial(self._tell, told_as or key)
        self.committer.submit(Commit(tuple(key.split("/")), chunks, None, promised, committed))

    def _tell(self, key: str, outcome: Landed) -> None:
        assert key not in self.told, "told twice"
        self.told[key] = outcome
        self._heard.set()

    @contextmanager
    def group(self) -> Iterator[None]:
        """What is submitted within is one group, behind a group of its own for the object `first.pdf`."""
        held = Held((DATA,))
        held.reached, held.go = threading.Event(), threading.Event()
        self.submit("first.pdf", held)
        assert held.reached.wait(30)
        try:
            yield
        finally:
            held.go.set()

    async def outcomes(self, number: int) -> list[Landed]:
        """The outcomes of `number` objects, in the order in which they were told; they are forgotten then."""
        with anyio.fail_after(30):
            while len(self.told) < number:
                self._heard = anyio.Event()
                await self._heard.wait()
        told, self.told = list(self.told.values()), {}
        return told


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    """A committer at work in a new directory."""
    root = tmp_path / "archive"
    tree = await anyio.to_thread.run_sync(Tree, root, "run-1", Quarantine(root))
    disk = Disk(root, tree)
    yield disk
    await anyio.to_thread.run_sync(disk.committer.close)
    await anyio.to_thread.run_sync(tree.close)


def kinds(outcomes: list[Landed]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


async def test_a_close_commits_what_waits(disk: Disk) -> None:
    """Everything that was submitted before a close is an object, and its outcome is told, each once, before it ends."""
    keys = [f"{n % 3}/{n}.pdf" for n in range(200)]
    with disk.group():
        for key in keys:
            disk.submit(key)

    await anyio.to_thread.run_sync(disk.committer.close)

    assert set(disk.told) == {"first.pdf", *keys}
    assert all(isinstance(outcome, PutResult) and not outcome.adopted for outcome in disk.told.values())
    assert all((disk.root / key).read_bytes() == DATA for key in keys)


async def test_a_conflict_stays_alone(disk: Disk) -> None:
    """In one group, a body whose name is taken waits for a word, and the others are stored."""
    (disk.root / "same.pdf").write_bytes(DATA)
    (disk.root / "other.pdf").write_bytes(b"%PDF-other")
    with disk.group():
        for key in ("same.pdf", "new.pdf", "other.pdf", "new.pdf.d/new.pdf"):
            disk.submit(key)

    _, same, new, other, below = await disk.outcomes(5)

    assert (await settled(same)).adopted
    assert kinds([new, below]) == [PutResult] * 2
    with pytest.raises(PermanentError):
        await settled(other)
    assert (disk.root / "other.pdf").read_bytes() == b"%PDF-other"
    assert (disk.root / ".bulkfetch/quarantine" / hashlib.sha256(DATA).hexdigest()).read_bytes() == DATA


async def test_two_of_one_name_in_a_group(disk: Disk) -> None:
    """Of two equal objects of one name in one group the first is stored, and the second adopts it."""
    with disk.group():
        disk.submit("a.pdf")
        disk.submit("a.pdf", told_as="again")

    _, first, second = await disk.outcomes(3)

    assert isinstance(first, PutResult)
    assert (await settled(second)).adopted


@WITH_STRACE
async def test_one_error_of_a_directory_counts_once(disk: Disk) -> None:
    """A directory that cannot be synced fails all of its group, as one error: the run goes on, and each is adopted."""
    keys = [f"{n}.pdf" for n in range(8)]
    # Two calls are the first group's, eight the new files'.
    with failing(THREAD, "fsync:error=EIO:when=11"):
        with disk.group():
            for key in keys:
                disk.submit(key)
        first, *failed = await disk.outcomes(9)

    assert isinstance(first, PutResult)
    assert kinds(failed) == [TransientError] * 8
    for key in keys:
        disk.submit(key)
    assert all([(await settled(outcome)).adopted for outcome in await disk.outcomes(8)])


@WITH_STRACE
@pytest.mark.parametrize("injection", ["linkat:error=EIO", "fsync:error=EIO:when=2+2"])
async def test_a_disk_that_takes_bytes_but_no_names_stops_the_run(disk: Disk, injection: str) -> None:
    """EIO from the naming, or the directory, of each object is fatal the third time, though each file was synced."""
    told = []
    with failing(THREAD, injection):
        for n in range(3):
            disk.submit(f"{n}.pdf")
            told += await disk.outcomes(1)

    assert kinds(told) == [TransientError, TransientError, FatalError]
    assert "check the disk" in str(told[-1])


@WITH_STRACE
async def test_an_error_of_a_close_is_none_of_the_object(disk: Disk) -> None:
    """What is durable is stored, though the system says an error when its file or directory is closed."""
    with failing(THREAD, "close:error=EIO"):
        disk.submit("2024/1.pdf")
        outcomes = await disk.outcomes(1)

    assert kinds(outcomes) == [PutResult]
    assert (disk.root / "2024/1.pdf").read_bytes() == DATA
