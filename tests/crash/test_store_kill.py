"""kill -9 at any moment: what has a final name is whole, what was returned is there, and the rest is swept."""

import hashlib
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.doubles import GivenBody, chunks
from support.puts import put

from bulkfetch.stores import LocalStore

pytestmark = pytest.mark.anyio

ROUNDS = 6
OBJECTS = 300
LONGEST_LIFE = 0.25


def data(number: int) -> bytes:
    """The bytes of invoice `number`: every seventh is too large to be held in memory."""
    size = 1_200_000 if number % 7 == 0 else 1_000 + 37 * number
    return (hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1))[:size]


def body(number: int) -> GivenBody:
    """The same as a body that lets others go on after each chunk."""
    return GivenBody(*(part for chunk in chunks(data(number)) for part in (chunk, anyio.lowlevel.checkpoint)))


def key(number: int) -> str:
    return f"{number % 5}/{number}.pdf"


async def put_all(root: Path, run: str) -> None:
    """Put every invoice at once, and say the number of each one whose put returned."""

    async def put(number: int) -> None:
        await put(store, key(number), body(number))
        os.write(1, f"{number}\n".encode())

    async with LocalStore.open(root, run) as store:
        os.write(1, b"ready\n")
        async with anyio.create_task_group() as puts:
            for number in range(OBJECTS):
                puts.start_soon(put, number)


def killed_run(root: Path, run: str, life: float) -> list[int]:
    """Let a process put all, kill it after `life` seconds of work; the numbers it said."""
    command = [sys.executable, __file__, str(root), run]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            process.wait(life)
        except subprocess.TimeoutExpired:
            process.kill()
        said = process.stdout.read().decode()
    return [int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]


async def test_kill_leaves_whole_objects_only(tmp_path: Path) -> None:
    """After each of several kills every visible object is whole, every returned one is there, and a run completes."""
    root = tmp_path / "archive"
    moments = random.Random(20_240_301)
    interrupted = 0
    for number in range(ROUNDS):
        returned = await anyio.to_thread.run_sync(killed_run, root, f"run-{number}", moments.uniform(0, LONGEST_LIFE))

        interrupted += len(returned) < OBJECTS
        visible = {path.relative_to(root).as_posix(): path for path in root.glob("[0-9]/*")}
        assert visible.keys() <= {key(n) for n in range(OBJECTS)}
        assert {key(n) for n in returned} <= visible.keys()
        for name, path in visible.items():
            assert path.read_bytes() == data(int(Path(name).stem))
    assert interrupted

    async with LocalStore.open(root, "last") as store:
        assert [path.name for path in (root / ".bulkfetch/tmp").iterdir()] == ["last.lock"]
        async with anyio.create_task_group() as puts:
            for number in range(OBJECTS):
                puts.start_soon(partial(put, store, key(number), body(number)))
        assert None not in await store.head([key(n) for n in range(OBJECTS)])


if __name__ == "__main__":
    anyio.run(put_all, Path(sys.argv[1]), sys.argv[2])
