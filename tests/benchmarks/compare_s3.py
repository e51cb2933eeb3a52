"""bulkfetch into a bucket beside scripts that a user would write, in turn, in one run: only ratios within it count.

pip install '.[test]' aiobotocore boto3
python tests/benchmarks/compare_s3.py --files 2000 --rounds 3
"""

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from compare import numbered, spread, write_ids
from naive_s3 import PREFIX
from processes import BULKFETCH, HERE, Cost, environment, measured, static_server

sys.path.insert(0, str(HERE.parent))
from support.seaweed import Seaweed, _started

SIZE = 150_000
OURS = "bulkfetch"
THEIRS = ("aiobotocore", "boto3")


@contextmanager
def seaweedfs(work: Path) -> Iterator[Seaweed]:
    """A SeaweedFS for one run: what others have put into it is no part of the cost."""
    with ExitStack() as stack:
        yield _started(stack, Path(tempfile.mkdtemp(dir=work, prefix="seaweedfs-")))


@contextmanager
def null_server(_: Path) -> Iterator[Seaweed]:
    """A server that keeps no invoice, for one run; the same client looks into it."""
    command = [sys.executable, str(HERE / "null_s3.py")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Seaweed(int(process.stdout.readline()))
        finally:
            process.terminate()


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Seaweed]]] = {"SeaweedFS": seaweedfs, "null": null_server}


def command_of(client: str, ids: Path, bucket: str, api_url: str) -> list[str]:
    """What a user would type."""
    if client == OURS:
        return [str(BULKFETCH), "run", str(ids), "--to", f"s3://{bucket}/{PREFIX}", "--api-url", api_url]
    return [sys.executable, str(HERE / "naive_s3.py"), "--client", client, str(ids), bucket, api_url]


def use(server: Seaweed, cache: Path) -> None:
    """Let every process that follows find `server`, and nothing of who runs this."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
    os.environ.update(server.environ | nowhere | {"XDG_CACHE_HOME": str(cache)})


def sizes_of_pdfs(server: Seaweed, bucket: str) -> list[int]:
    """The size of every invoice in `bucket`, listed page by page."""
    sizes: list[int] = []
    query = {"list-type": "2", "prefix": f"{PREFIX}/"}
    while True:
        page = server.request("GET", f"/{bucket}", query)
        listed = zip(page.texts("Key"), page.texts("Size"), strict=True)
        sizes += [int(size) for key, size in listed if key.endswith(".pdf")]
        following = page.texts("NextContinuationToken")
        if page.texts("IsTruncated") != ["true"] or query.get("continuation-token") == following[0]:
            return sizes
        query["continuation-token"] = following[0]


def children_cpu() -> float:
    """Seconds of user and system CPU of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def one_run(work: Path, server_name: str, client: str, ids: Path, files: int, api_url: str) -> tuple[Cost, float]:
    """Cost of a client, and seconds of CPU of its server, start included.

    Raises:
        SystemExit: it did not exit with 0, or not all objects are there in full size.
    """
    before = children_cpu()
    with SERVERS[server_name](work) as server:
        bucket = server.bucket()
        use(server, Path(tempfile.mkdtemp(dir=work, prefix="cache-")))
        cost = measured(command_of(client, ids, bucket, api_url), work / "output.log")
        there = sizes_of_pdfs(server, bucket)
    if there != [SIZE] * files:
        raise SystemExit(f"{client}: {there.count(SIZE)} of {files} objects are there, {len(there)} in all")
    return cost, children_cpu() - before - cost.cpu


def compare(work: Path, server_name: str, files: int, rounds: int) -> None:
    """Time the clients over `files` PDFs, `rounds` times after one that is not counted."""
    ids = write_ids(work / "ids.txt", numbered(files))
    clients = (OURS, *THEIRS)
    costs: dict[str, list[Cost]] = {client: [] for client in clients}
    server_cpu: dict[str, list[float]] = {client: [] for client in clients}
    loads = []
    with static_server(SIZE) as api:
        for number in range(rounds + 1):
            loads.append(os.getloadavg()[0])
            for client in clients:
                cost, spent = one_run(work, server_name, client, ids, files, api.url)
                if number:
                    costs[client].append(cost)
                    server_cpu[client].append(spent)
    print(f"\n{server_name}: {files} files of {SIZE // 1000} KB, {rounds} rounds in turn, load {spread(loads, '.1f')}")
    print(f"{'':<13}{'files/s':<22}{'CPU ms a file':<22}{'peak RSS MB':<13}server CPU ms a file")
    for client, series in costs.items():
        rates = spread([files / cost.wall for cost in series], ".0f")
        cpus = spread([1000 * cost.cpu / files for cost in series], ".2f")
        peak = max(cost.peak_mb for cost in series)
        theirs = spread([1000 * spent / files for spent in server_cpu[client]], ".2f")
        print(f"{client:<13}{rates:<22}{cpus:<22}{peak:<13.0f}{theirs}")
    for client in THEIRS:
        report_ratio(client, costs[OURS], costs[client])


def report_ratio(client: str, ours: Sequence[Cost], theirs: Sequence[Cost]) -> None:
    """Ours to theirs, pair by pair."""
    pairs = list(zip(ours, theirs, strict=True))
    rate = spread([their.wall / our.wall for our, their in pairs], ".2f")
    cpu = spread([our.cpu / their.cpu for our, their in pairs], ".2f")
    print(f"bulkfetch to {client}: files/s {rate}, CPU {cpu}")


def main() -> None:
    """Run what the flags ask for; everything it wrote is deleted at the end, for deleting slows down what follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="invoices in a run")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS, help="where to put the objects")
    parser.add_argument("--work-dir", type=Path, help="a directory on the disk to measure")
    given = parser.parse_args()
    if missing := [name for name in THEIRS if importlib.util.find_spec(name) is None]:
        parser.error(f"{' and '.join(missing)}: not installed; run: pip install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(dir=given.work_dir, prefix="bulkfetch-bench-") as name:
        for server_name in given.servers:
            compare(Path(name), server_name, given.files, given.rounds)


if __name__ == "__main__":
    main()
