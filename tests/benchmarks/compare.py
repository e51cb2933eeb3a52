"""bulkfetch beside its peers, in turn, in one run: only ratios within a round mean anything.

python tests/benchmarks/compare.py --quick                        whether everything works: one round of 20 files
python tests/benchmarks/compare.py --json figures.json --svg figures.svg
python tests/benchmarks/compare.py disk-150kb rate-limited        only these scenarios
python tests/benchmarks/compare.py --from figures.json --markdown what was measured earlier, as a table to paste
"""

import argparse
import gc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from chart import as_svg
from clients import TO_A_BUCKET, TO_DISK
from results import Report, load
from scenarios import SCENARIOS, Bench, UnfinishedError, pdfs
from servers import NGINX
from tables import as_markdown, as_text

UNFINISHED = "bulkfetch did not finish its work"
ROOM_PER_FILE = 1_200_000
"""Bytes that have to be free for each of `--files` in each round: more than any scenario writes."""


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def machine(work: Path) -> dict[str, str]:
    """What has to be known of a machine to judge its figures."""
    file_system = subprocess.run(["df", "--output=fstype", work], capture_output=True, text=True, check=False).stdout
    versions = [client.version() for client in (*TO_DISK, *TO_A_BUCKET[1:]) if not client.missing()]
    if NGINX:
        said = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
        versions.append(said.split()[-1])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": file_system.split()[-1],
        "Python": platform.python_version(),
        "versions": ", ".join(dict.fromkeys(versions)),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def measure(bench: Bench, names: list[str], save: Path | None) -> Report:
    """All scenarios of these names, saved after each of them. What they have written stays, emptied, until the end."""
    report = Report(machine(bench.work), missing=bench.missing)
    if NGINX is None:
        bench.missing["nginx"] = "not installed (apt install nginx-light), so static_server.py has served"
    room = ROOM_PER_FILE * bench.files * (bench.rounds + 1)
    for name in names:
        if shutil.disk_usage(bench.work).free < room:
            bench.missing[name] = f"less than {room / 1e9:.0f} GB free in the work directory"
            continue
        began = time.monotonic()
        say(f"{name} ...")
        try:
            if scenario := SCENARIOS[name](bench):
                report.scenarios.append(scenario)
        except (UnfinishedError, subprocess.TimeoutExpired) as error:
            say(str(error))
            bench.missing[name] = UNFINISHED
        report.machine["load after"] = f"{os.getloadavg()[0]:.1f}"
        if save:
            report.save(save)
        empty(bench.work)
        say(f"{name}: {time.monotonic() - began:.0f} s")
    return report


def empty(work: Path) -> None:
    """Give back the space of all outputs, but delete nothing: deletions slow down later creates on ext4 for minutes."""
    for directory in work.glob("out-*/archive"):
        for entry in pdfs(directory):
            os.truncate(entry.path, 0)
    for volume in work.glob("seaweedfs-*/**/*.dat"):
        os.truncate(volume, 0)
    os.sync()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; without any, all")
    parser.add_argument("--files", type=int, default=3000, help="files of 150 KB in a run; the rest follows from it")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--stored", type=int, default=300_000, help="IDs of the archive that has everything")
    parser.add_argument("--lines", type=int, default=10_000_000, help="lines of the very long list")
    parser.add_argument("--quick", action="store_true", help="20 files, 1 round, short lists: shows that it works")
    parser.add_argument("--work-dir", type=Path, help="on the disk to measure, best a file system of its own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and figures there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart there")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of columns")
    parser.add_argument("--from", dest="earlier", type=Path, nargs="+", metavar="FILE", help="read these instead")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if given.quick:
        given.files, given.rounds, given.stored, given.lines = 20, 1, 1000, 10_000
    return given


def main() -> None:
    """Measure, or read what was measured; then print and write what the flags ask for."""
    given = arguments()
    if given.earlier:
        report = load(given.earlier)
    else:
        # A collection here would take a core from what is measured.
        gc.disable()
        with tempfile.TemporaryDirectory(dir=given.work_dir, prefix="bulkfetch-bench-") as work:
            bench = Bench(Path(work), given.files, given.rounds, given.stored, given.lines, say=say)
            report = measure(bench, given.scenarios or list(SCENARIOS), given.json)
    if given.svg:
        given.svg.write_text(as_svg(report))
    print(as_markdown(report) if given.markdown else as_text(report))
    if failed := [name for name in given.scenarios or SCENARIOS if report.missing.get(name) == UNFINISHED]:
        raise SystemExit(f"bulkfetch did not finish: {', '.join(failed)}")


if __name__ == "__main__":
    main()
