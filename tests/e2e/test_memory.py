"""Memory is set by configuration, not by the input's length."""

import subprocess
import sys

from support.program import PATIENCE, environment, ids_of, sandbox, summary

MIB = 1024
_PEAK = """
import sys
from bulkfetch.cli import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def peak(*args: object) -> int:
    """The most memory, in KiB, that the command ever had resident."""
    # Asked for by the process itself: what the system reports of a child includes its parent's at the fork.
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, args)],
        capture_output=True, timeout=PATIENCE, env=environment("sandbox", {}),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr.decode()
    return int(done.stdout)


def test_memory_does_not_grow_with_the_input(tmp_path):
    """Three times as many rows, rejected, repeated, and stored, cost no more memory; the first ones fill the caches."""
    peaks = []
    with sandbox(invoices=5) as served:
        ids = ids_of(served)
        for lines in (300_000, 900_000):
            source, dest = tmp_path / f"{lines}.txt", tmp_path / f"archive-{lines}"
            with source.open("w") as file:
                file.writelines(
                    f"{ids[number % 5]}\n" if number % 3 else f"no id {number}\n" for number in range(lines)
                )
            peaks.append(peak("run", source, "--to", dest, "--api-url", served.api_url, "-q"))
            assert summary(dest).counts.read == lines
    # The ledger keeps up to 16 MiB of its pages in memory.
    assert peaks[1] - peaks[0] < 12 * MIB
