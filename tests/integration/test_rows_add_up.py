"""P2 is checked against the source, in production: a bug that loses a row, or makes one twice, ends the run with 1."""

from functools import partial
from pathlib import Path

import anyio
import pytest

from bulkfetch.app import archive
from bulkfetch.config import Api, Config, Destination
from bulkfetch.errors import ExitCode
from bulkfetch.models import Secret
from bulkfetch.pipeline.recorder import Recorder
from bulkfetch.pipeline.rows import RowWriter
from bulkfetch.pipeline.triage import Triage
from bulkfetch.sandbox import SandboxSettings, serve

INVOICES = 40


def loses_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    sort = Triage.sort

    async def mutant(self, batch):
        result = await sort(self, batch)
        result.to_fetch.pop()
        return result

    monkeypatch.setattr(Triage, "sort", mutant)


def loses_a_known_row(monkeypatch: pytest.MonkeyPatch) -> None:
    known = RowWriter.known
    monkeypatch.setattr(RowWriter, "known", lambda self, rows: known(self, rows)[:-1])


def records_a_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    add, done = Recorder.add, []

    def mutant(self, input_row, row):
        add(self, input_row, row)
        if not done:
            done.append(row)
            self._waiting.append((input_row, row))

    monkeypatch.setattr(Recorder, "add", mutant)


@pytest.mark.parametrize("bug", [None, loses_a_job, loses_a_known_row, records_a_row_twice])
def test_a_bug_that_loses_or_doubles_a_row_is_told(bug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source counts what it handed out, so no part of the pipeline can hide a row; without a bug the run is
    complete."""

    async def run():
        settings = SandboxSettings(invoices=INVOICES)
        ids = list(settings.book().ids())
        source = tmp_path / "ids.txt"
        await anyio.Path(source).write_text("".join(f"{each}\n" for each in [*ids, ids[0]]))
        async with serve(settings) as sandbox:
            config = Config(api=Api(url=sandbox.api_url), destination=Destination(url=str(tmp_path / "archive")))
            return await partial(archive, config, str(source), token=Secret(sandbox.token))()

    if bug:
        bug(monkeypatch)
    summary = anyio.run(run)
    if bug is None:
        assert (summary.exit_code, summary.counts.read) == (ExitCode.COMPLETE, INVOICES + 1)
    else:
        assert summary.exit_code == ExitCode.BUG
        assert "do not add up" in summary.stopped_by
        assert summary.counts.read == INVOICES + 1
