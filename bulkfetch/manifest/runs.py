"""Which runs an archive has had: their IDs and their files."""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bulkfetch.durable import disk_errors
from bulkfetch.errors import FatalError, UsageError
from bulkfetch.keys import MANIFESTS
from bulkfetch.manifest.own_directories import refuse_link
from bulkfetch.models import utc_iso
from bulkfetch.text import printable

_STAMP = "%Y%m%dT%H%M%SZ"
RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as found on disk: one without `summary` died; one without `manifest` has lost it."""

    id: str
    manifest: Path | None
    summary: Path | None


def new_run_id(now: datetime, *, after: str | None = None) -> str:
    """A fresh run ID that sorts behind `after`, even if the clock was set back in between."""
    moment = now.astimezone(UTC).replace(microsecond=0)
    if after is not None:
        moment = max(moment, _moment(after) + timedelta(seconds=1))
    return f"{moment:{_STAMP}}-{secrets.token_hex(3)}"


def started_at(run: str) -> str:
    """When the run with the ID `run` began, UTC ISO 8601, to the second."""
    return utc_iso(_moment(run))


def _moment(run: str) -> datetime:
    return datetime.strptime(run.partition("-")[0], _STAMP).replace(tzinfo=UTC)


def check_run_id(run: str) -> str:
    """`run` itself, if it is a run ID.

    Raises:
        UsageError: it is none.
    """
    if not _is_run_id(run):
        raise UsageError(f"{printable(run)} is not a run ID (such as 20250131T235959Z-0a1b2c)")
    return run


def list_runs(root: Path) -> list[Run]:
    """The runs of the archive in `root`, oldest first; none where there is no archive.

    Raises:
        FatalError: the directory cannot be read, or something in a manifest's place is no file.
    """
    directory = root / MANIFESTS
    refuse_link(directory)
    with disk_errors(f"list {directory}"):
        try:
            with os.scandir(directory) as entries:
                names = {entry.name: entry for entry in entries}
        except FileNotFoundError:
            return []
    ids = {stem for stem, dot, suffix in (name.partition(".") for name in names) if dot and suffix in ("jsonl", "json")}
    return [
        Run(
            id=run,
            manifest=directory / f"{run}.jsonl" if f"{run}.jsonl" in names else None,
            summary=directory / f"{run}.json" if f"{run}.json" in names else None,
        )
        for run in sorted(ids)
        if _is_run_id(run) and _are_files(directory, names, run)
    ]


def _is_run_id(name: str) -> bool:
    """Whether `name` is a run ID, its moment one of the calendar, with another one behind it."""
    try:
        return bool(RUN_ID.fullmatch(name)) and _moment(name) + timedelta(seconds=1) > _moment(name)
    except (ValueError, OverflowError):
        return False


def _are_files(directory: Path, names: Mapping[str, os.DirEntry[str]], run: str) -> bool:
    """True: a named pipe in a manifest's place, for one, would be waited for without end.

    Raises:
        FatalError: one of the names of `run` is something else than a file.
    """
    for name in (f"{run}.jsonl", f"{run}.json"):
        with disk_errors(f"look at {directory / name}"):
            if name in names and not names[name].is_file(follow_symlinks=False):
                raise FatalError(
                    f"{printable(str(directory / name))} is no file: see what it is, and move it elsewhere"
                )
    return True


def unfinished_runs(root: Path) -> list[Run]:
    """The runs that died: a manifest without a summary."""
    return [run for run in list_runs(root) if run.summary is None]
