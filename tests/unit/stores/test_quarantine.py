"""How much is kept in quarantine, and what is told when it is full."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkfetch.stores.quarantine import Quarantine


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the quarantine's directory."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_the_limit_counts_what_was_there_and_what_came(tmp_path: Path, directory: int) -> None:
    """What other runs left counts; what is there already needs no room; what does not fit is told, once."""
    (tmp_path / "aa").write_bytes(bytes(60))
    told: list[str] = []
    quarantine = Quarantine(tmp_path, limit=100, tell=told.append)
    assert quarantine.admits(directory, "bb", 30)
    assert not quarantine.admits(directory, "cc", 11)
    assert quarantine.admits(directory, "aa", 60)
    assert quarantine.admits(directory, "dd", 10)
    assert not quarantine.admits(directory, "ee", 1)
    assert len(told) == 1
    assert str(tmp_path) in told[0]
