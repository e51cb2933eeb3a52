"""What the system gives a process: its encoding of file names, memory, threads, and disks that may fail."""

import os
import sys

from bulkfetch.durable import explain

_NO_MEMORY = "the system gives this process no more {}; lower limits.workers, or raise its limit (ulimit -v, ulimit -u)"


def insist_on_utf8() -> None:
    """Begin again in Python's UTF-8 mode if file names have another encoding here, as under LC_ALL=C.

    Keys are UTF-8, whatever the locale of the machine or of tonight's cron job.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - this program again


def refused_by_system(error: Exception) -> str | None:
    """What the system refused, in words; None if `error` does not say that it refused anything."""
    match error:
        case MemoryError():
            return _NO_MEMORY.format("memory")
        case RuntimeError(args=("can't start new thread",)):
            return _NO_MEMORY.format("threads or memory")
        case ImportError() if any(words in str(error) for words in ("failed to map segment", "cannot allocate memory")):
            return _NO_MEMORY.format("memory")
        case ConnectionError() | TimeoutError():  # of a socket that nobody took care of
            return None
        case OSError(errno=int()):
            return f"the system refused what a run cannot do without: {explain(error)}"
        case _:
            return None
