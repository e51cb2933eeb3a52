"""System calls that fail: those of one thread of this process, by strace; those of another process, one after another,
by a small library that is preloaded, and that may also end the process."""

import errno
import os
import shutil
import subprocess
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import pytest

WITH_STRACE = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("strace"), reason="failing system calls need strace and root"
)

_SOURCE = Path(__file__).with_suffix(".c")


@contextmanager
def failing(thread: str, injection: str) -> Iterator[None]:
    """System calls of the only thread of that name fail as strace is told to make them."""
    [tid] = [each.native_id for each in threading.enumerate() if each.name == thread]
    command = ["strace", "-p", str(tid), "-e", f"inject={injection}", "-o", "/dev/null"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        attached = strace.stderr.readline()
        try:
            if "attached" not in attached:
                pytest.skip(f"strace cannot attach: {attached}")
            yield
        finally:
            strace.terminate()


class Fault(Enum):
    """What a system call meets."""

    KILL = "the process is killed"
    EIO = "an input/output error"
    ENOSPC = "a full disk"
    DYING = "an input/output error, as do all calls after it"


def compiled(directory: Path) -> Path:
    """The library, compiled into `directory`; without a C compiler, or on another system, the test is skipped."""
    compiler = shutil.which("cc")
    if compiler is None or "linux" not in sysconfig.get_platform():
        pytest.skip("failing system calls need Linux and a C compiler")
    library = directory / "syscalls.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, "-o", library, _SOURCE, "-ldl"], check=True)
    return library


def at_point(point: int, fault: Fault, below: Path, *, library: Path, met: Path) -> Mapping[str, str]:
    """The variables that let the call number `point` (from 1) of a process meet `fault`.

    Only calls count that change or open something `below` that directory. The file `met` is made when the call comes.
    """
    number = errno.ENOSPC if fault is Fault.ENOSPC else errno.EIO
    return {
        "LD_PRELOAD": str(library),
        "SYSCALLS_ROOT": str(below),
        "SYSCALLS_POINT": str(point),
        "SYSCALLS_FAULT": "kill" if fault is Fault.KILL else str(number),
        "SYSCALLS_MET": str(met),
    } | ({"SYSCALLS_LASTING": "1"} if fault is Fault.DYING else {})
