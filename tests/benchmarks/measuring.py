"""Whole processes, measured from outside: start-up is part of what a user waits for."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")
LIMIT = 900.0


@dataclass(frozen=True)
class Cost:
    """Of one process and its children: seconds from start to exit, seconds of user and system CPU, and the peak RSS of
    the largest of them in MB (10^6 bytes)."""

    wall: float
    cpu: float
    peak_mb: float
    exit_code: int


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a measured process: without what slows down imports, and with a token that nobody checks.

    With PYTHONDONTWRITEBYTECODE set, each start would compile every module again.
    """
    foreign = ("BULKFETCH_", "PYTHON", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"BULKFETCH_TOKEN": "token", "NO_PROXY": "127.0.0.1"} | dict(extra or {})


def measured(command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> Cost:
    """Run `command` to its end, with `extra` in its environment; what it prints goes to `log`.

    Raises:
        subprocess.TimeoutExpired: it took longer than `LIMIT` seconds; it is killed, with its children.
    """
    # What an earlier run left for the disk to do is not this one's cost.
    os.sync()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(LAUNCH), str(log), *command],
        env=environment(extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Cost(**json.loads(said))


def cpu_of(pid: int) -> float:
    """Seconds of user and system CPU that the process `pid` has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
