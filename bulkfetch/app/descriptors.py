"""Open files: a run knows beforehand how many it can need."""

import resource

from bulkfetch.errors import UsageError
from bulkfetch.pipeline.in_hand import MOST_AWAITING

_OWN = 64  # manifest, ledger, lock, input, directories, the interpreter's own


def reserve_descriptors(workers: int) -> None:
    """Raise the process's soft limit of open files to what `workers` can need: two connections each, and a temporary
    file for every invoice in hand.

    Raises:
        UsageError: the hard limit is below that.
    """
    needed = 2 * workers + (workers + MOST_AWAITING) + _OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(
            f"limits.workers = {workers} can need {needed} open files, and this process may have {hard}: "
            "lower it, or raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
