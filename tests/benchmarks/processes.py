"""Whole processes, measured from outside: start-up is part of what a user waits for."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BULKFETCH = Path(sys.executable).with_name("bulkfetch")


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds from start to exit, seconds of user and system CPU, peak RSS in MB (10^6 bytes)."""

    wall: float
    cpu: float
    peak_mb: float


def environment() -> dict[str, str]:
    """For a measured process: without what slows down imports, with a token that nobody checks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BULKFETCH_", "PYTHON"))}
    return kept | {"BULKFETCH_TOKEN": "token"}


def bulkfetch(ids: Path, directory: Path, api_url: str, *flags: str) -> list[str]:
    """The installed command."""
    return [str(BULKFETCH), "run", str(ids), "--to", str(directory), "--api-url", api_url, *flags]


def naive(ids: Path, directory: Path, api_url: str) -> list[str]:
    """The script beside it."""
    return [sys.executable, str(HERE / "naive.py"), str(ids), str(directory), api_url]


def measured(command: Sequence[str], log: Path) -> Cost:
    """Run `command` to its end; what it prints goes to `log`.

    Raises:
        SystemExit: it did not exit with 0.
    """
    # What an earlier run left for the disk to do is not this one's cost.
    os.sync()
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
        # A child's peak begins at that of its parent at the fork: this process has to stay the smaller one.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


class Server:
    """The static server: where it is, and what it has cost."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"

    def cpu(self) -> float:
        """Seconds of user and system CPU so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def static_server(size: int) -> Iterator[Server]:
    """A server of PDFs of `size` bytes, in its own process."""
    command = [sys.executable, str(HERE / "static_server.py"), "--size", str(size)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Server(process, int(process.stdout.readline()))
        finally:
            process.terminate()
