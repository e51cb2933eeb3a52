"""What the tag (ETag) of an object proves: in many stores it is the MD5 of the bytes that were kept."""

import hashlib
import mmap
import re

from anyio import to_thread

_MD5 = re.compile(r"[0-9a-f]{32}")
_QUICK = 1024 * 1024
"""Bytes that are hashed before a thread would have begun."""


async def speaks_against(e_tag: str | None, data: bytes | mmap.mmap) -> bool:
    """Whether `e_tag` has the form of an MD5 and is not that of `data`. It proves nothing yet: where the store encrypts
    (SSE-KMS, SSE-C), tags of the same form are no MD5."""
    tag = (e_tag or "").strip('"').lower()
    if not _MD5.fullmatch(tag):
        return False
    return tag != (_md5(data) if len(data) <= _QUICK else await to_thread.run_sync(_md5, data))


def _md5(data: bytes | mmap.mmap) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
