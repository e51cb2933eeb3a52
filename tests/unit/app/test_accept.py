"""What `accept` refuses before it looks at the archive."""

import pytest

from bulkfetch.app import accept
from bulkfetch.app.accept import Word, accept_invoices, read_ids
from bulkfetch.config import Config, Destination
from bulkfetch.errors import UsageError


def test_more_than_fit_into_memory_are_refused(tmp_path, monkeypatch):
    """Too many IDs, on the command line or in a file, are refused before all are read, and nothing is recorded."""
    monkeypatch.setattr(accept, "MOST", 5)
    config = Config(destination=Destination(url=str(tmp_path / "archive")))
    with pytest.raises(UsageError, match="at most 5"):
        accept_invoices(config, Word(["x"] * 6, None, "why", withdraw=False), environ={})
    file = tmp_path / "gaps.txt"
    file.write_text("x-1\n" * 6)
    with pytest.raises(UsageError, match="at most 5"):
        read_ids(config, str(file), lambda event: None)
    file.write_text("x-1\n" * 5)
    assert read_ids(config, str(file), lambda event: None) == ["x-1"] * 5
