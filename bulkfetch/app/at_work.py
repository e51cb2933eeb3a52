"""A run lets others know that it is at work: see `manifest/runs_at_work.py`."""

import os
import socket
from datetime import datetime

from bulkfetch.interfaces import Source
from bulkfetch.manifest import ManifestWriter
from bulkfetch.manifest.runs_at_work import RunNote
from bulkfetch.models import utc_iso
from bulkfetch.retrying import polling

ESTIMATE_SECONDS = 2.0
"""For so long the first rows are waited for, which tell how many there will be: in a bucket a note is put once."""

_LOOK_SECONDS = 0.1


async def announce(manifest: ManifestWriter, source: Source, began: datetime) -> None:
    """Leave the note of the run of `manifest`, which reads `source`. Never raises."""

    async def estimated() -> bool:
        return source.estimate() is not None

    await polling(estimated, ESTIMATE_SECONDS, pause=_LOOK_SECONDS)
    await manifest.announce(
        RunNote(
            run=manifest.run,
            source=source.name,
            estimate=source.estimate(),
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=utc_iso(began),
        )
    )
