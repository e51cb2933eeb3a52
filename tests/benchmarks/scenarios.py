"""The scenarios: what is measured, on which server, by whom, and in which order."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from clients import BULKFETCH, BY_RATE, OURS, TO_A_BUCKET, TO_DISK, Client, Job, bulkfetch
from first_file import FEW, MANY, until_first
from measuring import Cost, measured
from results import Sample, Scenario
from servers import BUCKETS, HERE, Api, fastest_api, missing_bucket, sandbox, static_api
from stored_archive import KEY, invoice_ids

SMALL, USUAL, LARGE = 30_000, 150_000, 5_000_000
RATE = 200
RATE_SECONDS = 15
LATENCY_SECONDS = 5
ERROR_EVERY = 100
SCALING = (100, 10, 1)


class UnfinishedError(Exception):
    """A run of bulkfetch that did not do all of its work: there is nothing to measure."""


@dataclass
class Bench:
    """What all scenarios share: where they work, how much they do, and what they cannot measure.

    `files` is the number of 150 KB files in a run, and the other numbers follow from it.
    """

    work: Path
    files: int
    rounds: int
    stored: int
    lines: int = MANY
    missing: dict[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = print

    def directory(self, name: str) -> Path:
        """A name that was never used: creating where something was deleted is slower on ext4."""
        return Path(tempfile.mkdtemp(dir=self.work, prefix=name)) / "archive"

    def write(self, name: str, lines: Iterable[str]) -> Path:
        """A file with these lines."""
        path = self.work / name
        with path.open("w") as file:
            for line in lines:
                file.write(line + "\n")
        return path

    def installed(self, clients: Iterable[Client]) -> list[Client]:
        """Those of `clients` that are there; the others are put down as missing."""
        missing = {client.name: reason for client in clients if (reason := client.missing())}
        self.missing |= missing
        return [client for client in clients if client.name not in missing]

    def in_turn(self, runs: Mapping[str, Callable[[], Sample]]) -> dict[str, list[Sample]]:
        """Call all `runs` in each of `rounds` rounds, after one that is not counted; each round begins with another."""
        rows: dict[str, list[Sample]] = {name: [] for name in runs}
        names = list(runs)
        for number in range(self.rounds + 1):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                sample = runs[name]()
                self.say(f"  round {number}: {name}: {sample.rate:.0f} a second, {sample.cpu_ms:.2f} CPU ms each")
                if number:
                    rows[name].append(sample)
        return rows


def numbered(count: int) -> Iterator[str]:
    """IDs in order."""
    return (f"{number:08d}" for number in range(count))


def pdfs(directory: Path) -> Iterator[os.DirEntry[str]]:
    """The invoices that are visible in `directory`."""
    if directory.exists():
        with os.scandir(directory) as entries:
            yield from (entry for entry in entries if entry.name.endswith(".pdf"))


def sampled(client: str, cost: Cost, done: int, asked: int, log: Path, refused: int = 0) -> Sample:
    """A sample of one run; a peer may end early, which the tables show.

    Raises:
        UnfinishedError: bulkfetch left something out.
    """
    if client == OURS and (done != asked or cost.exit_code):
        raise UnfinishedError(f"{client}: {done} of {asked}, exit code {cost.exit_code}\n{log.read_text()[-2000:]}")
    return Sample(cost.wall, cost.cpu, cost.peak_mb, done, asked, refused)


def to_disk(bench: Bench, client: Client, job: Job, size: int, asked: int) -> Sample:
    """One run of `client` into a fresh directory."""
    directory, log = bench.directory("out-"), bench.work / "output.log"
    cost = measured(client.command(replace(job, directory=directory)), log)
    done = sum(entry.stat().st_size == size for entry in pdfs(directory))
    return sampled(client.name, cost, done, asked, log)


def side_by_side(
    bench: Bench,
    name: str,
    title: str,
    server: AbstractContextManager[Api],
    run: Callable[[Client, Job], Sample],
    clients: Iterable[Client],
    files: int,
    workers: int = 32,
) -> Scenario:
    """All clients that are installed over the same IDs, on one server."""
    with server as api:
        urls = bench.write(f"{name}.urls", (f"{api.url}/{invoice_id}.pdf" for invoice_id in numbered(files)))
        ids = bench.write(f"{name}.txt", numbered(files))
        job = Job(ids, urls, bench.work, "", api.url, workers)
        there = bench.installed(clients)
        rows = bench.in_turn({client.name: partial(run, client, job) for client in there})
        runs = files * len(there) * (bench.rounds + 1)
        return Scenario(name, title, rows, api.name, 1000 * api.cpu() / runs)


def disk(bench: Bench, size: int) -> Scenario:
    """To a directory, as fast as it goes."""
    files = files_of(bench, size)
    return side_by_side(
        bench,
        f"disk-{short(size)}",
        f"{files:,} files of {words(size)} to disk, 32 at a time",
        fastest_api(size, bench.work),
        lambda client, job: to_disk(bench, client, job, size, files),
        TO_DISK,
        files,
    )


def latency(bench: Bench, delay_ms: int, workers: int, error_every: int = 0) -> Scenario:
    """A server that takes its time for an answer, and may fail."""
    files = max(20, min(bench.files, int(workers * 500 / delay_ms * LATENCY_SECONDS)))
    flags = ["--delay", str(delay_ms / 1000), "--error-every", str(error_every)]
    failing = f", 1 of {error_every} requests answered with 503" if error_every else ""
    return side_by_side(
        bench,
        f"latency-{delay_ms}-{workers}" + ("-errors" if error_every else ""),
        f"{files:,} files of 150 KB, answers after {delay_ms} ms, {workers} at a time{failing}",
        static_api(USUAL, *flags),
        lambda client, job: to_disk(bench, client, job, USUAL, files),
        TO_DISK,
        files,
        workers,
    )


def bucket(bench: Bench, kind: str, size: int) -> Scenario | None:
    """To a bucket; each run gets a server of its own."""
    files = files_of(bench, size)
    name = f"{kind}-{short(size)}"
    if reason := missing_bucket():
        bench.missing[name] = reason
        return None

    def run(client: Client, job: Job) -> Sample:
        log = bench.work / "output.log"
        with BUCKETS[kind].server(bench.work) as target:
            cache = {"XDG_CACHE_HOME": tempfile.mkdtemp(dir=bench.work, prefix="cache-")}
            cost = measured(client.command(replace(job, bucket=target.name)), log, {**target.environ, **cache})
            return sampled(client.name, cost, target.pdfs(size), files, log)

    title = f"{files:,} files of {words(size)} to a bucket of {BUCKETS[kind].title}, 32 at a time"
    return side_by_side(bench, name, title, fastest_api(size, bench.work), run, TO_A_BUCKET, files)


def rate_limited(bench: Bench) -> Scenario:
    """The usual case: the API is the limit. No client is told the rate."""
    count = max(40, min(bench.files, RATE * RATE_SECONDS))
    ids, log = bench.work / "sandbox-ids.txt", bench.work / "output.log"

    def run(client: Client) -> Sample:
        directory = bench.directory("out-")
        with sandbox(BULKFETCH, ids, count, SMALL, RATE) as server:
            cost = measured(client.command(Job(ids, ids, directory, "", server.url)), log)
            refused = server.end()
        return sampled(client.name, cost, sum(1 for _ in pdfs(directory)), count, log, refused)

    there = bench.installed(BY_RATE)
    rows = bench.in_turn({client.name: partial(run, client) for client in there})
    title = f"{count:,} files of about 30 KB from an API that allows {RATE} links a second"
    return Scenario("rate-limited", title, rows)


def stored(bench: Bench) -> Scenario:
    """A re-run over an archive that has everything. A script would download all of it again."""
    archive, log = bench.work / "stored-archive", bench.work / "output.log"
    subprocess.run([sys.executable, str(HERE / "stored_archive.py"), str(archive), str(bench.stored)], check=True)
    ids = bench.write("stored.txt", invoice_ids(bench.stored))
    with static_api(SMALL) as api:
        command = bulkfetch(Job(ids, ids, archive, "", api.url), "--key", KEY)

        def run() -> Sample:
            return sampled(OURS, measured(command, log), bench.stored, bench.stored, log)

        rows = bench.in_turn({OURS: run})
    return Scenario("stored", f"A re-run over {bench.stored:,} stored IDs", rows, unit="ids")


def first_file(bench: Bench) -> Scenario:
    """The time from the command to the first PDF under its final name, for a very long list and a short one."""

    def run(ids: Path, url: str) -> Sample:
        directory = bench.directory("out-")
        os.sync()
        seconds = until_first(bulkfetch(Job(ids, ids, directory, "", url), "-q"), lambda: any(pdfs(directory)))
        return Sample(seconds, 0.0, 0.0, 1, 1)

    with static_api(USUAL) as api:
        lists = {lines: bench.write(f"first-{lines}.txt", numbered(lines)) for lines in (bench.lines, FEW)}
        rows = bench.in_turn({f"list of {lines:,}": partial(run, ids, api.url) for lines, ids in lists.items()})
    return Scenario("first-file", "Seconds from the start to the first PDF", rows, unit="starts")


def scaling(bench: Bench) -> Scenario:
    """Whether the rate stays the same over ten and a hundred times as many files."""
    ours = next(client for client in TO_DISK if client.name == OURS)
    smallest = max(20, bench.files // 3)
    counts = [smallest * factor for factor in SCALING]
    with fastest_api(SMALL, bench.work) as api:
        runs = {}
        for count in counts:
            ids = bench.write(f"scaling-{count}.txt", numbered(count))
            job = Job(ids, ids, bench.work, "", api.url)
            runs[f"{count:,} files"] = partial(to_disk, bench, ours, job, SMALL, count)
        rows = bench.in_turn(runs)
    return Scenario("scaling", f"{counts[-1]:,} to {counts[0]:,} files of 30 KB", rows, api.name)


def files_of(bench: Bench, size: int) -> int:
    """Fewer large files, so that a run takes about as long."""
    return max(20, bench.files * USUAL // size) if size > USUAL else bench.files


def short(size: int) -> str:
    """The size as it stands in a scenario's name."""
    return f"{size // 1_000_000}mb" if size >= 1_000_000 else f"{size // 1000}kb"


def words(size: int) -> str:
    """The size as it stands in a title."""
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1000} KB"


def _named() -> Iterator[tuple[str, Callable[[Bench], Scenario | None]]]:
    for size in (SMALL, USUAL, LARGE):
        yield f"disk-{short(size)}", partial(disk, size=size)
    for kind in BUCKETS:
        for size in (SMALL, USUAL, LARGE):
            yield f"{kind}-{short(size)}", partial(bucket, kind=kind, size=size)
    yield "rate-limited", rate_limited
    for delay_ms in (50, 100):
        for workers in (32, 128):
            calm = partial(latency, delay_ms=delay_ms, workers=workers)
            yield f"latency-{delay_ms}-{workers}", calm
            yield f"latency-{delay_ms}-{workers}-errors", partial(calm, error_every=ERROR_EVERY)
    yield from (("stored", stored), ("first-file", first_file), ("scaling", scaling))


SCENARIOS = dict(_named())
