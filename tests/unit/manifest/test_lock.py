"""One run at a time: held by the living, free after the dead."""

import signal
import subprocess
import sys

import pytest

from bulkfetch.errors import ArchiveLocked, ExitCode, FatalError
from bulkfetch.manifest.lock import ArchiveLock, Holder

HOLDER = Holder(pid=4711, host="host-1", started_at="2025-01-31T00:00:00.000Z", run="20250131T000000Z-0a1b2c")

HOLD = """
import sys
from pathlib import Path
from bulkfetch.manifest.lock import ArchiveLock
lock = ArchiveLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_whoever_comes_second_learns_who_holds(tmp_path):
    """The refusal names process, host, start and run, and ends with exit code 7."""
    lock = ArchiveLock.acquire(tmp_path / "lock")
    lock.sign(HOLDER)
    with pytest.raises(ArchiveLocked) as refused:
        ArchiveLock.acquire(tmp_path / "lock")
    for word in ("4711", "host-1", "2025-01-31T00:00:00.000Z", "20250131T000000Z-0a1b2c"):
        assert word in str(refused.value)
    assert refused.value.exit_code == ExitCode.LOCKED
    lock.close()
    ArchiveLock.acquire(tmp_path / "lock").close()


def test_a_dead_holder_holds_nothing(tmp_path):
    """kill -9 frees the lock, and what the dead one signed is not shown for the next holder."""
    ArchiveLock.acquire(tmp_path / "lock").close()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ArchiveLocked, match="not yet known"):
            ArchiveLock.acquire(tmp_path / "lock")
        process.send_signal(signal.SIGKILL)
    ArchiveLock.acquire(tmp_path / "lock").close()


def test_a_holder_that_was_forgotten_is_not_named(tmp_path):
    """Who held the archive before is not taken for who holds it now."""
    before = ArchiveLock.acquire(tmp_path / "lock")
    before.sign(HOLDER)
    before.close()
    now = ArchiveLock.acquire(tmp_path / "lock")
    with pytest.raises(ArchiveLocked, match="not yet known"):
        ArchiveLock.acquire(tmp_path / "lock")
    now.close()


def test_a_hostile_lock_file_cannot_steer_the_terminal(tmp_path):
    """Control characters in the holder's text are shown escaped."""
    lock = ArchiveLock.acquire(tmp_path / "lock")
    lock.sign(Holder(pid=1, host="\x1b[2J", started_at="", run=""))
    with pytest.raises(ArchiveLocked) as refused:
        ArchiveLock.acquire(tmp_path / "lock")
    assert "\x1b" not in str(refused.value)
    lock.close()


def test_a_link_in_the_locks_place_is_not_followed(tmp_path):
    """A symbolic link planted as the lock file does not get its target emptied."""
    (tmp_path / "precious").write_text("data")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(FatalError, match="cannot lock"):
        ArchiveLock.acquire(tmp_path / "lock")
    assert (tmp_path / "precious").read_text() == "data"
