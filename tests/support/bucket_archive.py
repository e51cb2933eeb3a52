"""An archive in a bucket, as the program leaves it: what is under its prefix, read past everything that is tested."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from bulkfetch.models import Row
from support.seaweed import Seaweed

PREFIX = "archive"


def machine(seaweed: Seaweed, home: Path) -> dict[str, str]:
    """The environment of one machine: the server's keys, and a cache of its own."""
    return {**seaweed.environ, "XDG_CACHE_HOME": str(home)}


def objects(seaweed: Seaweed, bucket: str) -> list[str]:
    """The keys of the PDFs below the prefix, relative to it."""
    keys = (key.removeprefix(f"{PREFIX}/") for key in seaweed.keys(bucket))
    return sorted(key for key in keys if not key.startswith((".bulkfetch/", "manifests/")))


def content(seaweed: Seaweed, bucket: str, key: str) -> bytes:
    """The bytes under a key."""
    return seaweed.request("GET", f"/{bucket}/{PREFIX}/{key}", {}).body


def manifests(seaweed: Seaweed, bucket: str) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """Every row of every run, from the segments in the bucket, and the summaries, by run. What the segments of a run
    hold, its packs hold again."""
    segments, packs = defaultdict[str, bytes](bytes), defaultdict[str, bytes](bytes)
    summaries: dict[str, dict[str, Any]] = {}
    for key in seaweed.keys(bucket):
        name = key.removeprefix(f"{PREFIX}/")
        if not name.startswith(("manifests/", ".bulkfetch/rows/")):
            continue
        match = re.fullmatch(r"manifests/([^./]*)(\.rows-|\.json$)(.*)", name)
        match = match or re.fullmatch(r"\.bulkfetch/rows/([^./]*)(/)(.*)", name)
        assert match, name
        run, kind, _ = match.groups()
        data = content(seaweed, bucket, name)
        if kind == ".json":
            summaries[run] = json.loads(data)
        else:
            (segments if kind == "/" else packs)[run] += data
    for run, rows in segments.items():
        assert rows.startswith(packs[run])
        assert run not in summaries or rows == packs[run]
    return msgspec.json.Decoder(Row).decode_lines(b"".join(segments.values())), summaries
