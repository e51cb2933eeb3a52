"""What only a directory can show: small and read-only disks, planted links, modes, failing system calls."""

import asyncio
import hashlib
import os
import stat
import tracemalloc
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.disks import AS_ROOT, Mount
from support.doubles import GivenBody
from support.puts import put as put_body
from support.syscalls import WITH_STRACE, failing

from bulkfetch.errors import BulkfetchError, FatalError, PermanentError, Reason, Refused, TransientError
from bulkfetch.models import PutResult
from bulkfetch.stores import LocalStore
from bulkfetch.stores.local import temp_files
from bulkfetch.stores.quarantine import Quarantine

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


async def put(store: LocalStore, key: str, *chunks: bytes) -> PutResult:
    return await put_body(store, key, GivenBody(*chunks))


async def failure(store: LocalStore, key: str, *chunks: bytes) -> BulkfetchError:
    with pytest.raises(BulkfetchError) as caught:
        await put(store, key, *chunks)
    return caught.value


def temps(root: Path) -> list[str]:
    return [path.name for path in (root / ".bulkfetch/tmp").glob("*.part")]


def kept_in(root: Path) -> dict[str, bytes]:
    """What is in quarantine, by name."""
    return {path.name: path.read_bytes() for path in (root / ".bulkfetch/quarantine").iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@AS_ROOT
@pytest.mark.parametrize("size", [600_000, 3 * MIB])
async def test_a_full_disk_stops_the_run_and_leaves_no_trace(mount: Mount, size: int) -> None:
    """ENOSPC is fatal and says what to do; there is no object, no temporary file, and earlier objects are whole."""
    root = mount("size=80m")
    async with LocalStore.open(root, "run-1") as store:
        await put(store, "INV-1.pdf", b"%PDF-1")
        ballast = root / "ballast"
        ballast.write_bytes(bytes(80 * MIB - size // 2 - 100_000))

        error = await failure(store, "INV-2.pdf", *[bytes(60_000)] * (size // 60_000))

        assert isinstance(error, FatalError)
        assert str(root) in str(error)
        assert "free some space" in str(error)
        assert (root / "INV-1.pdf").read_bytes() == b"%PDF-1"
        assert not (root / "INV-2.pdf").exists()
        assert temps(root) == []
        ballast.unlink()
        assert (await put(store, "INV-2.pdf", bytes(size))).size == size


@AS_ROOT
async def test_too_little_space_is_told_before_the_first_put(mount: Mount) -> None:
    """A destination with less than 64 MiB free is refused when it is opened."""
    with pytest.raises(FatalError, match="less than 64 MiB"):
        async with LocalStore.open(mount("size=2m"), "run-1"):
            pass


@AS_ROOT
async def test_a_read_only_disk_is_told_before_the_first_put(mount: Mount) -> None:
    """A read-only destination is refused when it is opened."""
    with pytest.raises(FatalError, match="read-only"):
        async with LocalStore.open(mount("size=80m,ro"), "run-1"):
            pass


@AS_ROOT
async def test_private_directory_on_another_disk(mount: Mount) -> None:
    """Where `.bulkfetch` is on another file system than the tree, the probe says so."""
    with pytest.raises(FatalError, match="another file system"):
        async with LocalStore.open(mount("size=80m", ".bulkfetch").parent, "run-1"):
            pass


@AS_ROOT
@pytest.mark.usefixtures("as_nobody")
async def test_a_forbidden_directory_is_told_before_the_first_put(root: Path) -> None:
    """A destination that this user may not write to is refused when it is opened."""
    with pytest.raises(FatalError, match="permission denied"):
        async with LocalStore.open(root, "run-1"):
            pass


@pytest.mark.parametrize("below", ["", "archive"])
async def test_a_file_is_no_destination(tmp_path: Path, below: str) -> None:
    """A destination that is a file, or lies below one, is refused when it is opened."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FatalError, match="not a directory"):
        async with LocalStore.open(tmp_path / "file" / below, "run-1"):
            pass


async def test_the_root_is_made_and_left_clean(tmp_path: Path) -> None:
    """A missing destination is created with its parents, and an unused store leaves nothing visible in it."""
    root = tmp_path / "a/b"
    async with LocalStore.open(root, "run-1") as store:
        assert store.name == str(root)
    assert [path.name for path in root.iterdir()] == [".bulkfetch"]
    assert list((root / ".bulkfetch/tmp").iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_modes(root: Path, umask: int) -> None:
    """Objects are 0640 under any umask, directories heed it, and nobody else may look into what is not published."""
    before = os.umask(umask)
    try:
        async with LocalStore.open(root, "run-1") as store:
            await put(store, "2024/INV-1.pdf", b"%PDF-1")
            await failure(store, "2024/INV-1.pdf", b"%PDF-2")
    finally:
        os.umask(before)

    assert mode(root / "2024/INV-1.pdf") == 0o640
    assert mode(root / "2024") == 0o750 & ~umask
    assert mode(root / ".bulkfetch/tmp") == mode(root / ".bulkfetch/quarantine") == 0o700


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_held_bytes_are_kept_aside(root: Path, size: int) -> None:
    """A body that ends in an error with `hold` is kept in quarantine, the same bytes once, and nowhere else."""
    error = PermanentError(Reason.NOT_PDF, "no PDF", hold=True)
    for run in ("run-1", "run-2"):
        async with LocalStore.open(root, run) as store:
            for key, fill in (("2024/INV-1.pdf", b"a"), ("INV-2.pdf", b"a"), ("2024/INV-1.pdf", b"b")):
                with pytest.raises(PermanentError, match="no PDF"):
                    await put_body(store, key, GivenBody(fill * size, b"end", error))

            assert temps(root) == []
    bodies = [fill * size + b"end" for fill in (b"a", b"b")]
    assert kept_in(root) == {hashlib.sha256(body).hexdigest(): body for body in bodies}
    assert not (root / "2024").exists()


async def test_an_error_without_hold_keeps_nothing(root: Path) -> None:
    """A body that fails without `hold` leaves no bytes anywhere, small or large."""
    async with LocalStore.open(root, "run-1") as store:
        for size in (10, 3 * MIB):
            body = GivenBody(bytes(size), TransientError(Reason.TRUNCATED, "cut"))
            with pytest.raises(TransientError):
                await put_body(store, "INV-1.pdf", body)

        assert temps(root) == []
        assert not (root / ".bulkfetch/quarantine").exists()


async def test_a_cancelled_put_leaves_no_temporary_file(root: Path) -> None:
    """A large put that is cancelled while its body arrives removes what it had written."""

    async def stall() -> None:
        scope.cancel()
        await anyio.sleep_forever()

    async with LocalStore.open(root, "run-1") as store:
        with anyio.CancelScope() as scope:
            await put_body(store, "INV-1.pdf", GivenBody(bytes(2 * MIB), bytes(2 * MIB), stall))

        assert scope.cancelled_caught
        assert temps(root) == []


async def test_conflicting_bytes_are_kept_aside(root: Path) -> None:
    """The bytes that lost a conflict are in quarantine, where the error says."""
    async with LocalStore.open(root, "run-1") as store:
        await put(store, "INV-1.pdf", b"%PDF-1")
        error = await failure(store, "INV-1.pdf", b"%PDF-2")

        assert temps(root) == []
    digest = hashlib.sha256(b"%PDF-2").hexdigest()
    assert f".bulkfetch/quarantine/{digest}" in str(error)
    assert error.refused == Refused(digest, 6)
    assert kept_in(root) == {digest: b"%PDF-2"}
    assert (root / "INV-1.pdf").read_bytes() == b"%PDF-1"


async def test_a_quarantine_that_takes_nothing_harms_nobody(root: Path) -> None:
    """Where the quarantine is full or cannot be used, a refused invoice fails as it would otherwise, its error says
    that the bytes are not kept, one message a run says why, and other objects are stored."""
    (root / ".bulkfetch").mkdir(parents=True)
    place, told = root / ".bulkfetch/quarantine", list[str]()
    for run, limit in (("full", 5), ("unusable", 1000)):
        if run == "unusable":
            place.rmdir()
            place.touch()
        async with LocalStore.open(root, run, Quarantine(place, limit=limit, tell=told.append)) as store:
            await put(store, f"{run}.pdf", b"%PDF-1")
            for other in (b"%PDF-2", b"%PDF-3"):
                error = await failure(store, f"{run}.pdf", other)
                assert isinstance(error, PermanentError)
                assert error.reason is Reason.CONFLICT
                assert str(error).endswith("are not kept")
            held = PermanentError(Reason.NOT_PDF, "no PDF", hold=True)
            with pytest.raises(PermanentError, match="no PDF"):
                await put_body(store, "held.pdf", GivenBody(bytes(MIB * 2), b"end", held))
            assert temps(root) == []
    full, unusable = told
    assert "limits.quarantine" in full
    assert str(place) in full
    assert "cannot be kept" in unusable


@pytest.mark.parametrize("key", ["planted", "planted/INV-1.pdf", "2024/planted", "2024/planted/INV-1.pdf"])
@pytest.mark.parametrize("target", ["outside", "outside/INV-1.pdf", "absent"])
async def test_planted_symlinks_lead_nowhere(root: Path, tmp_path: Path, key: str, target: str) -> None:
    """A symlink as a key's name or directory is never followed, not even to equal bytes: the put conflicts."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "INV-1.pdf").write_bytes(b"the same")
    (root / "2024").mkdir(parents=True)
    for directory in (root, root / "2024"):
        (directory / "planted").symlink_to(tmp_path / target)
    async with LocalStore.open(root, "run-1") as store:
        error = await failure(store, key, b"the same")

        assert isinstance(error, PermanentError)
        assert error.reason is Reason.CONFLICT
        assert await store.head([key]) == [None]
        with pytest.raises(FileNotFoundError):
            await anext(store.get(key))
    assert list(kept_in(root).values()) == [b"the same"]
    assert [path.read_bytes() for path in outside.iterdir()] == [b"the same"]
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("planted", [".bulkfetch", ".bulkfetch/tmp"])
async def test_a_planted_private_directory_is_refused(root: Path, tmp_path: Path, planted: str) -> None:
    """A symlink in the place of the store's own directories stops the run when it is opened."""
    (tmp_path / "outside").mkdir()
    (root / planted).parent.mkdir(parents=True)
    (root / planted).symlink_to(tmp_path / "outside")
    with pytest.raises(FatalError, match="not a directory"):
        async with LocalStore.open(root, "run-1"):
            pass
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_planted_pipe_is_no_object(root: Path) -> None:
    """A named pipe under a key is not waited for: the put conflicts, and to `get` and `head` there is nothing."""
    async with LocalStore.open(root, "run-1") as store:
        os.mkfifo(root / "INV-1.pdf")
        assert "no regular file" in str(await failure(store, "INV-1.pdf", b"%PDF-1"))
        assert await store.head(["INV-1.pdf"]) == [None]
        with pytest.raises(FileNotFoundError):
            await anext(store.get("INV-1.pdf"))


async def test_only_dead_runs_are_swept(root: Path) -> None:
    """Opening removes the temporary files of dead runs, and leaves those of a run that works beside this one."""
    directory = root / ".bulkfetch/tmp"
    directory.mkdir(parents=True)
    for name in ("dead.1.part", "dead.2.part", "dead.lock", "unlocked.7.part", "run-2.1.part"):
        (directory / name).write_bytes(b"left")
    async with LocalStore.open(root, "run-1"):
        assert sorted(path.name for path in directory.iterdir()) == ["run-1.lock"]
        (directory / "run-1.99.part").write_bytes(b"in work")
        (directory / "run-2.1.part").write_bytes(b"an earlier life")
        async with LocalStore.open(root, "run-2"):
            assert sorted(path.name for path in directory.iterdir()) == ["run-1.99.part", "run-1.lock", "run-2.lock"]


async def test_one_run_is_open_once(root: Path) -> None:
    """A run that is at work on the archive cannot be opened a second time."""
    async with LocalStore.open(root, "run-1"):
        with pytest.raises(FatalError, match="run-1 is already at work"):
            async with LocalStore.open(root, "run-1"):
                pass


async def test_memory_and_descriptors_are_bounded(root: Path) -> None:
    """A body of 24 MiB takes less than 2 MiB of memory, and many directories leave no descriptor behind."""

    class Large(GivenBody):
        sha256 = "0" * 64

        async def gather(self, chunks: list[bytes], limit: int) -> bool:
            while self.size < 384 * 65_536:
                chunks.append(bytes(65_536))
                self.size += 65_536
                if self.size % (limit + 65_536) == 0:
                    return True
            return False

    async with LocalStore.open(root, "run-1") as store:
        await put(store, "warm.pdf", b"%PDF-")
        open_before = len(os.listdir("/proc/self/fd"))
        tracemalloc.start()
        await put_body(store, "large.pdf", Large())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        keys = [f"{n}/x/INV.pdf" for n in range(100)]
        for key in keys:
            await put(store, key, b"%PDF-")
        assert None not in await store.head(keys)

        assert len(os.listdir("/proc/self/fd")) == open_before
    assert peak < 2 * MIB


async def test_a_bug_in_a_thread_fails_every_put(root: Path) -> None:
    """When a thread of the store dies, waiting and later puts raise `FatalError` instead of waiting for ever."""

    class Text(GivenBody):
        sha256 = "0" * 64

        async def gather(self, chunks: list[bytes], limit: int) -> bool:
            chunks.append("text")  # type: ignore[arg-type]  # the bug
            return False

    async with LocalStore.open(root, "run-1") as store:
        with pytest.raises(FatalError, match="the store broke: TypeError"):
            await put_body(store, "INV-1.pdf", Text())
        with pytest.raises(FatalError, match="the store broke"):
            await put(store, "INV-2.pdf", b"%PDF-")


async def test_a_task_cancelled_by_asyncio_harms_nobody(root: Path) -> None:
    """A put whose task asyncio itself cancels, shield or not, raises nothing in the loop and its object is whole."""
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    async with LocalStore.open(root, "run-1") as store:

        def cancel() -> None:
            task.cancel()

        task = asyncio.ensure_future(put_body(store, "INV-1.pdf", GivenBody(b"%PDF-"), taken=cancel))
        with pytest.raises(asyncio.CancelledError):
            await task
    await anyio.lowlevel.checkpoint()

    assert raised == []
    assert (root / "INV-1.pdf").read_bytes() == b"%PDF-"


@WITH_STRACE
async def test_one_bad_file_of_a_group_fails_alone(root: Path) -> None:
    """EIO from one fsync fails that put alone, drops its bytes, and the next try stores them."""
    results: list[PutResult | BulkfetchError] = []

    async def attempt(key: str) -> None:
        try:
            results.append(await put(store, key, key.encode()))
        except BulkfetchError as error:
            results.append(error)

    keys = [f"INV-{n}.pdf" for n in range(8)]
    async with LocalStore.open(root, "run-1") as store:
        with failing("bulkfetch-store", "fsync:error=EIO:when=1"):
            async with anyio.create_task_group() as puts:
                for key in keys:
                    puts.start_soon(attempt, key)

        [error] = [result for result in results if isinstance(result, BulkfetchError)]
        assert isinstance(error, TransientError)
        assert error.reason is Reason.STORE_ERROR
        [lost] = [key for key in keys if not (root / key).exists()]
        assert temps(root) == []
        assert not (await put(store, lost, lost.encode())).adopted


@WITH_STRACE
async def test_the_third_io_error_in_a_row_stops_the_run(root: Path) -> None:
    """EIO from fsync is transient twice; the third in a row is fatal, and a success in between starts anew."""
    async with LocalStore.open(root, "run-1") as store:
        with failing("bulkfetch-store", "fsync:error=EIO:when=1"):
            assert isinstance(await failure(store, "INV-0.pdf", b"%PDF-"), TransientError)
        await put(store, "INV-0.pdf", b"%PDF-")
        with failing("bulkfetch-store", "fsync:error=EIO"):
            kinds = [type(await failure(store, f"INV-{n}.pdf", b"%PDF-")) for n in (1, 2, 3)]

    assert kinds == [TransientError, TransientError, FatalError]


@WITH_STRACE
@pytest.mark.parametrize(("key", "failing_sync"), [("INV.pdf", 2), ("2024/INV.pdf", 2), ("2024/INV.pdf", 3)])
async def test_an_unsynced_directory_is_no_success(root: Path, key: str, failing_sync: int) -> None:
    """When a directory on the way to the object cannot be synced the put fails; the next try adopts what is there."""
    async with LocalStore.open(root, "run-1") as store:
        with failing("bulkfetch-store", f"fsync:error=EIO:when={failing_sync}"):
            assert isinstance(await failure(store, key, b"%PDF-"), TransientError)
        assert (await put(store, key, b"%PDF-")).adopted


@WITH_STRACE
@pytest.mark.parametrize("failing_sync", [2, 3])  # the new bytes are synced before, but no directory
async def test_what_is_adopted_is_synced(root: Path, failing_sync: int) -> None:
    """An object that another run may have left unsynced is adopted once file and directory are durable, not before."""
    async with LocalStore.open(root, "run-1") as store:
        (root / "INV-1.pdf").write_bytes(b"%PDF-")
        with failing("bulkfetch-store", f"fsync:error=EIO:when={failing_sync}"):
            assert isinstance(await failure(store, "INV-1.pdf", b"%PDF-"), TransientError)

        assert temps(root) == []
        assert (await put(store, "INV-1.pdf", b"%PDF-")).adopted


@WITH_STRACE
@pytest.mark.parametrize(
    ("thread", "injection", "kind", "words"),
    [
        ("bulkfetch-store", "linkat:error=EROFS", FatalError, "read-only"),
        ("bulkfetch-store", "linkat:error=EPERM", FatalError, "hard links"),
        ("bulkfetch-store", "linkat:error=EXDEV", FatalError, "another file system"),
        ("bulkfetch-store", "writev:error=EDQUOT", FatalError, "quota"),
        ("bulkfetch-store", "openat:error=EMFILE", TransientError, "Too many open files"),
        ("bulkfetch-store", "writev:error=EFBIG", TransientError, "File too large"),
    ],
)
async def test_system_errors_are_mapped(
    root: Path, thread: str, injection: str, kind: type[BulkfetchError], words: str
) -> None:
    """Each system error has its disposition, a message with the place, and leaves no temporary file."""
    async with LocalStore.open(root, "run-1") as store:
        with failing(thread, injection):
            error = await failure(store, "INV-1.pdf", b"%PDF-")

        assert type(error) is kind
        assert words in str(error)
        assert str(root) in str(error)
        assert temps(root) == []


@WITH_STRACE
async def test_after_a_short_write_the_rest_follows(root: Path) -> None:
    """When the system says that it took five bytes (and here took none), exactly the others are written next."""
    async with LocalStore.open(root, "run-1") as store:
        with failing("bulkfetch-store", "writev:retval=5"):
            await put(store, "INV-1.pdf", b"abc", b"defg", b"hi")

    assert (root / "INV-1.pdf").read_bytes() == b"fghi"


@pytest.mark.parametrize("flag", [None, os.O_DIRECTORY], ids=["nameless", "named"])
async def test_temporary_files_have_names_only_where_they_must(
    root: Path, monkeypatch: pytest.MonkeyPatch, flag: int | None
) -> None:
    """Nothing is seen of a body on its way where the file system has nameless files; where it has not (EISDIR is its
    answer to the flag), the store falls back to names by itself, and takes them away."""
    if flag is not None:
        monkeypatch.setattr(temp_files, "_NAMELESS", flag)
    seen: list[int] = []
    async with LocalStore.open(root, "run-1") as store:
        look = partial(anyio.to_thread.run_sync, lambda: seen.append(len(temps(root))))
        body = GivenBody(bytes(3 * MIB), look, b"end")
        await put_body(store, "INV-1.pdf", body)

        assert seen == [0 if flag is None else 1]
        assert temps(root) == []
    assert mode(root / "INV-1.pdf") == 0o640
