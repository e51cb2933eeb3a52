"""What a run says of itself, put together from its parts."""

from datetime import UTC, datetime
from typing import cast

import anyio
import pytest
from support.doubles import GivenSource
from support.edges import new_gate

from bulkfetch.app.open_origins import Origins
from bulkfetch.app.summary import run_result
from bulkfetch.errors import ExitCode
from bulkfetch.links.downloader import HttpDownloader
from bulkfetch.links.minter import ApiMinter
from bulkfetch.models import RequestCounts
from bulkfetch.net.doubts import Doubts
from bulkfetch.pipeline.tally import Tally

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("finished", "exit_code", "complete"),
    [(True, ExitCode.COMPLETE, True), (True, ExitCode.FAILED, False), (False, ExitCode.STOPPED, False)],
)
async def test_finished_is_never_taken_for_complete(finished, exit_code, complete) -> None:
    """Complete is finished with exit code 0; lines that are no rows, and requests, are in the counts of the source and
    the gates."""
    api, files = new_gate(), new_gate()
    (await files.enter()).abandon()
    (await api.enter()).close()
    source, tally = GivenSource([]), Tally()
    source.not_rows = {"blank": 2, "comment": 1}
    tally.read_to_end = finished
    told = await run_result(
        tally,
        source,
        Origins(cast("ApiMinter", None), cast("HttpDownloader", None), api, files, Doubts(), anyio.sleep_forever),
        verdict=(exit_code, None),
        destination="archive",
        began=datetime.now(UTC),
        ended=datetime.now(UTC),
        seconds=1.0,
    )
    assert (told.finished, told.complete, told.exit_code) == (finished, complete, exit_code)
    assert told.not_rows == {"blank": 2, "comment": 1}
    assert told.requests == {
        "links": RequestCounts(sent=1, answered=1),
        "downloads": RequestCounts(sent=1, abandoned=1),
    }
