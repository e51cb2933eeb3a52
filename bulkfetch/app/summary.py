"""What happened in a run, put together for its summary."""

import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version

import anyio

from bulkfetch.app.open_origins import Origins
from bulkfetch.errors import ExitCode
from bulkfetch.interfaces import Source
from bulkfetch.models import RunResult, utc_iso
from bulkfetch.pipeline.tally import Tally


def _versions() -> Mapping[str, str]:
    # Reads the packages' metadata from the disk.
    return {
        "bulkfetch": version("bulkfetch"),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
    }


async def run_result(
    tally: Tally,
    source: Source,
    origins: Origins,
    *,
    verdict: tuple[ExitCode, str | None],
    destination: str,
    began: datetime,
    finished: datetime,
    seconds: float,
) -> RunResult:
    """The result of a run that came to `verdict`; `seconds` is its length by a clock that nobody sets."""
    exit_code, stopped_by = verdict
    digest = source.digest()
    api, links = origins.api_gate, origins.download_gate
    return RunResult(
        exit_code=exit_code,
        complete=exit_code in (ExitCode.COMPLETE, ExitCode.FAILED, ExitCode.FAILED_RETRYABLE),
        stopped_by=stopped_by,
        started_at=utc_iso(began),
        finished_at=utc_iso(finished),
        seconds=round(seconds, 3),
        counts=tally.counts(source),
        corrected=tally.corrected,
        reasons=dict(tally.reasons),
        bytes_stored=tally.bytes_stored,
        names_taken=tally.names_taken,
        requests={
            "links": api.requests.sent,
            "links_refused": api.requests.refused,
            "downloads": links.requests.sent,
            "downloads_refused": links.requests.refused,
        },
        source=source.name,
        input_sha256=digest[0] if digest else None,
        input_bytes=digest[1] if digest else None,
        destination=destination,
        versions=await anyio.to_thread.run_sync(_versions),
    )
