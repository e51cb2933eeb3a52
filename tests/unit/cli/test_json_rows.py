"""The manifest's rows on stdout."""

import json

import pytest
from support.program import until

from bulkfetch.cli.json_rows import JsonRows
from bulkfetch.events import RowsRecorded, RunStarted
from bulkfetch.manifest import encode_rows
from bulkfetch.models import Outcome, Row


@pytest.fixture
def rows():
    return [
        Row(run="r", invoice_id=f"re-{name}", outcome=Outcome.STORED, started_at="", finished_at="")
        for name in ("1", "ü", "\x7f\U0001f600")
    ]


def test_rows_on_stdout_are_the_manifests_in_harmless_ascii(tmp_path, capfd, rows):
    """Each row is written once its event came, as it stands in the manifest; nothing in it can steer a terminal."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(encode_rows(rows))
    listener = JsonRows()
    listener(RunStarted("r", "ids.txt", "archive", None, file))
    for row in rows[:2]:
        listener(RowsRecorded([row]))
    until(lambda: listener.idle)
    assert listener.loss() is None
    out = capfd.readouterr().out
    assert [json.loads(line)["invoice_id"] for line in out.splitlines()] == ["re-1", "re-ü"]
    listener(RowsRecorded([rows[2]]))
    until(lambda: listener.idle)
    (line,) = capfd.readouterr().out.splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["invoice_id"] == rows[2].invoice_id
