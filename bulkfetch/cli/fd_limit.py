"""The process's limit of open files: a run knows beforehand how many it can need."""

import resource

from bulkfetch.errors import UsageError
from bulkfetch.pipeline.in_hand import MOST_AWAITING

_OWN = 64  # manifest, ledger, lock, input, directories, the interpreter's own


def raise_fd_limit(workers: int) -> None:
    """Raise the process's soft limit of open files to what a run of so many `workers` can need.

    That is two connections for each worker, as many that are being closed, and a temporary file for every invoice in
    hand.

    Raises:
        UsageError: the hard limit is below that.
    """
    needed = 4 * workers + (workers + MOST_AWAITING) + _OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(
            f"limits.workers = {workers} can need {needed} open files, and this process may have {hard}: "
            "lower it, or raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
