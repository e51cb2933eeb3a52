"""bulkfetch beside a script that a user would write, in turn, in one run: only ratios within it mean anything.

python tests/benchmarks/compare.py --files 3000 --rounds 5
python tests/benchmarks/compare.py --already-stored 1000000
python tests/benchmarks/compare.py --first-file
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from processes import HERE, Cost, Server, bulkfetch, environment, measured, naive, static_server
from stored_archive import KEY, invoice_ids

SIZES = (150_000, 30_000)
CLIENTS: dict[str, Callable[[Path, Path, str], list[str]]] = {"bulkfetch": bulkfetch, "naive": naive}
FEW, MANY = 10, 10_000_000
STORED_FEW = 20_000
LINES_AT_ONCE = 100_000
FIRST_FILE_WITHIN = 60.0


def write_ids(path: Path, ids: Iterable[str]) -> Path:
    """A list with one ID a line."""
    with path.open("w") as file:
        for invoice_id in ids:
            file.write(invoice_id + "\n")
    return path


def numbered(count: int) -> Iterator[str]:
    """IDs in order."""
    return (f"{number:08d}" for number in range(count))


def pdfs(directory: Path) -> Iterator[os.DirEntry[str]]:
    """The invoices that are visible in `directory`."""
    if directory.exists():
        with os.scandir(directory) as entries:
            yield from (entry for entry in entries if entry.name.endswith(".pdf"))


def compare(work: Path, size: int, files: int, rounds: int) -> None:
    """Time both clients over `files` PDFs of `size` bytes, `rounds` times after one that is not counted."""
    ids = write_ids(work / f"ids-{files}.txt", numbered(files))
    costs: dict[str, list[Cost]] = {name: [] for name in CLIENTS}
    with static_server(size) as server:
        for number in range(rounds + 1):
            for name, command in CLIENTS.items():
                directory = work / f"{name}-{size}-{number}"
                cost = measured(command(ids, directory, server.url), work / "output.log")
                there = sum(entry.stat().st_size == size for entry in pdfs(directory))
                if there != files:
                    raise SystemExit(f"{name}: {there} of {files} files are there")
                if number:
                    costs[name].append(cost)
        server_cpu = server.cpu() / (files * len(CLIENTS) * (rounds + 1))
    print(f"\n{size // 1000} KB, {files} files, {rounds} rounds in turn, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<12}{'files/s':<26}{'CPU ms a file':<26}peak RSS MB")
    for name, series in costs.items():
        rates = [files / cost.wall for cost in series]
        cpus = [1000 * cost.cpu / files for cost in series]
        peak = max(cost.peak_mb for cost in series)
        print(f"{name:<12}{spread(rates, '.0f'):<26}{spread(cpus, '.2f'):<26}{peak:.0f}")
    pairs = list(zip(costs["bulkfetch"], costs["naive"], strict=True))
    rate_ratio = spread([theirs.wall / ours.wall for ours, theirs in pairs], ".2f")
    cpu_ratio = spread([ours.cpu / theirs.cpu for ours, theirs in pairs], ".2f")
    print(f"{'ratio':<12}{rate_ratio:<26}{cpu_ratio:<26}")
    print(f"the server: {1000 * server_cpu:.2f} CPU ms a file, so {1 / server_cpu:.0f} files/s on a core of its own")


def spread(values: Sequence[float], form: str) -> str:
    """The median, with least and most."""
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def already_stored(work: Path, count: int) -> None:
    """Run again over an archive that has everything: over the first of its IDs, then over all `count`."""
    archive = work / "archive"
    started = time.perf_counter()
    # Not in this process, whose peak memory its children would inherit.
    subprocess.run([sys.executable, str(HERE / "stored_archive.py"), str(archive), str(count)], check=True)
    print(f"an archive of {count} invoices, made in {time.perf_counter() - started:.0f} s")
    with static_server(SIZES[-1]) as server:
        for lines in (min(STORED_FEW, count), count):
            ids = write_ids(work / f"stored-{lines}.txt", invoice_ids(lines))
            cost = measured(bulkfetch(ids, archive, server.url, "--key", KEY), work / "output.log")
            print(f"{lines:>10} IDs: {lines / cost.wall:>8.0f} a second, peak RSS {cost.peak_mb:.0f} MB")


def first_file(work: Path) -> None:
    """The time from the command to the first invoice under its final name, for a short and a very long list."""
    with static_server(SIZES[0]) as server:
        for lines in (FEW, FEW, MANY):
            ids = write_ids(work / f"first-{lines}.txt", numbered(lines))
            seconds = _until_first(ids, Path(tempfile.mkdtemp(dir=work)) / "archive", server)
            print(f"{lines:>10} lines: first PDF after {seconds:.2f} s")


def _until_first(ids: Path, directory: Path, server: Server) -> float:
    started = time.perf_counter()
    deadline = started + FIRST_FILE_WITHIN
    command = bulkfetch(ids, directory, server.url, "-q")
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        while next(pdfs(directory), None) is None:
            if time.perf_counter() > deadline or process.poll():
                raise SystemExit("no PDF came")
            time.sleep(0.002)
        return time.perf_counter() - started
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait()


def main() -> None:
    """Run what the flags ask for; everything it wrote is deleted at the end, for deleting slows down what follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000, help="invoices in a run")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes of a PDF")
    parser.add_argument("--already-stored", type=int, nargs="?", const=200_000, metavar="N", help="only this: a re-run")
    parser.add_argument("--first-file", action="store_true", help="only this: time to the first PDF")
    parser.add_argument("--work-dir", type=Path, help="a directory on the disk to measure (not tmpfs)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work_dir, prefix="bulkfetch-bench-") as name:
        work = Path(name)
        if given.already_stored:
            already_stored(work, given.already_stored)
        elif given.first_file:
            first_file(work)
        else:
            for size in given.sizes:
                compare(work, size, given.files, given.rounds)


if __name__ == "__main__":
    main()
