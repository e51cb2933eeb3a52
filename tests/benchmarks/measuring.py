"""Whole processes, measured from outside: start-up is part of what a user waits for."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 900.0


@dataclass(frozen=True)
class Cost:
    """Of one process and its children: seconds from start to exit, seconds of user and system CPU, and the peak RSS of
    the largest of them in MB (10^6 bytes)."""

    wall: float
    cpu: float
    peak_mb: float
    exit_code: int = 0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a measured process: without what slows down imports, and with a token that nobody checks.

    With PYTHONDONTWRITEBYTECODE set, each start would compile every module again.
    """
    foreign = ("BULKFETCH_", "PYTHON", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"BULKFETCH_TOKEN": "token", "NO_PROXY": "127.0.0.1"} | dict(extra or {})


def measured(command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> Cost:
    """Run `command` to its end, with `extra` in its environment; what it prints goes to `log`.

    After `LIMIT` seconds it is killed, with its children.
    """
    # What an earlier run left for the disk to do is not this one's cost.
    os.sync()
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment(extra),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        killer = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
        killer.start()
        # A child's peak begins at that of its parent at the fork: this process has to stay the smaller one.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, process.returncode)


def cpu_of(pid: int) -> float:
    """Seconds of user and system CPU that the process `pid` has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
