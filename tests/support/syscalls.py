"""System calls that fail, or end their process, one after the other: a small library that is preloaded."""

import errno
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_suffix(".c")


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
