"""How well several processes keep one shared rate over a NATS server, and what it costs.

Four worker processes with thirty waiters each share 200 and then 1000 starts a second for six seconds; then one of them
is killed (kill -9), and the other three go on for two seconds.

    PYTHONPATH=tests python tests/benchmarks/shared_rate.py
"""

import bisect
import multiprocessing
import os
import signal
import time
from itertools import chain
from multiprocessing.connection import Connection
from random import Random

import anyio
from support.nats_server import nats_server

from bulkfetch.net.gate import Gate
from bulkfetch.queues import open_queue

WORKERS = 4
WAITERS = 30
SECONDS = 6.0
AFTER = 2.0
LAST = 1.5
ANSWER = 0.02
"""Seconds that the API is taken to need for an answer."""


def work(url: str, rate: float, pipe: Connection) -> None:
    """One worker: its waiters ask a gate that keeps the shared rate, and report every start."""

    async def main() -> None:
        async with (
            open_queue(url, {}, notify=lambda event: None) as queue,
            queue.shared_rate("api", rate=rate, patience=60.0, on_pause=lambda seconds: None) as share,
        ):
            assert share is not None
            gate = Gate("API", ceiling=WAITERS, max_outage=60.0, rng=Random(1), notify=lambda event: None)
            gate.join(share)
            started: list[float] = []

            async def wait() -> None:
                while True:
                    with await gate.enter():
                        started.append(time.time())
                        await anyio.sleep(ANSWER)

            async def report() -> None:
                while True:
                    await anyio.sleep(0.05)
                    if started:
                        pipe.send(started[:])
                        started.clear()

            pipe.send([])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(report)
                for _ in range(WAITERS):
                    tasks.start_soon(wait)

    anyio.run(main)


def most_in(starts: list[float], seconds: float) -> int:
    """How many of the sorted `starts` lie in any one span of `seconds`."""
    return max(bisect.bisect_left(starts, start + seconds) - index for index, start in enumerate(starts))


def operations(url: str) -> int:
    """Writes to the shared state so far: each reservation is one, and so is each look at the clock."""

    async def ask() -> int:
        async with (
            open_queue(url, {}, notify=lambda event: None, create=True) as queue,
            queue.shared_rate("api", rate=1.0, patience=5.0, on_pause=lambda seconds: None),
        ):
            return (await queue._js.stream_info(f"KV_{url.rpartition('/')[2]}_state")).state.last_seq

    return anyio.run(ask)


def collect(pipes: list[Connection], until: float) -> list[list[float]]:
    """What the workers report until the moment `until`."""
    starts: list[list[float]] = [[] for _ in pipes]
    while time.time() < until:
        for own, pipe in zip(starts, pipes, strict=True):
            try:
                while pipe.poll():
                    own += pipe.recv()
            except (EOFError, OSError):
                continue
        time.sleep(0.01)
    return starts


def measure(url: str, rate: float) -> None:
    """Run the workers, and print what came of it."""
    operations(url)
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(WORKERS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(url, rate, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    time.sleep(1.0)
    before, began = operations(url), time.time()
    starts = collect(pipes, began + SECONDS)
    used = operations(url) - before
    os.kill(processes[0].pid or 0, signal.SIGKILL)
    killed = time.time()
    late = collect(pipes, killed + AFTER)
    for process in processes:
        process.kill()
        process.join()
    steady = sorted(start for own in starts for start in own if began <= start < began + SECONDS)
    every = sorted(chain.from_iterable(starts + late))
    last = [start for start in every if killed + AFTER - LAST <= start < killed + AFTER]
    print(
        f"| {rate:g}/s | {len(steady) / SECONDS:.0f}/s | {most_in(every, 1.0)} | {most_in(every, 0.1)} | "
        f"{used / SECONDS:.1f}/s | {len(last) / LAST:.0f}/s | {', '.join(str(len(own)) for own in starts)} |",
        flush=True,
    )


def main() -> None:
    """Both rates, as a table."""
    print("| rate | achieved | most in any 1 s | most in any 100 ms | writes | 1.5 s after a death | by worker |")
    print("|---|---|---|---|---|---|---|")
    with nats_server() as server:
        for rate in (200.0, 1000.0):
            measure(server.queue(), rate)


if __name__ == "__main__":
    main()
