"""The time until a command has stored its first invoice."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from measuring import environment

FEW, MANY = 10, 10_000_000
WITHIN = 60.0
LOOK_EVERY = 0.002


def until_first(command: Sequence[str], came: Callable[[], bool]) -> float:
    """Seconds from the start of `command` until `came`; then it is stopped.

    Raises:
        SystemExit: it ended, or `WITHIN` seconds passed, before that.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        while not came():
            if time.perf_counter() > started + WITHIN or process.poll():
                raise SystemExit("no PDF came")
            time.sleep(LOOK_EVERY)
        return time.perf_counter() - started
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait()
