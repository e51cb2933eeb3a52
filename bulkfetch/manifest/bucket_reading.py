"""Reads manifests from a bucket: many parts at once, and from the segments what a damaged pack should hold."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from bulkfetch.errors import DamagedManifest
from bulkfetch.manifest.bucket_layout import HEALING, Part, segment_key
from bulkfetch.manifest.rows import are_rows
from bulkfetch.text import printable

READERS = 32
"""Requests at once: a start without a local copy reads every run there was, and most of that time is waiting."""

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


def read_ahead(read: Callable[[_Item], _Read], items: Iterable[_Item]) -> Iterator[tuple[_Item, _Read]]:
    """Each of `items` with what `read` makes of it, in order; the next ones are being read meanwhile."""
    waiting = deque[tuple[_Item, Future[_Read]]]()
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="manifest-reader")
    try:
        for item in items:
            waiting.append((item, readers.submit(read, item)))
            if len(waiting) >= READERS:
                first, done = waiting.popleft()
                yield first, done.result()
        while waiting:
            first, done = waiting.popleft()
            yield first, done.result()
    finally:
        readers.shutdown(cancel_futures=True)


def read_whole(
    run: str, part: Part, read: Callable[[str], bytes | None], damaged: Callable[[str], None] = lambda _: None
) -> bytes:
    """The rows of `part` of `run`. Those of a pack that is damaged or gone come from the segments that it holds.

    Args:
        read: the object under a key; None if there is none.
        damaged: told the key of a part whose rows come from elsewhere.

    Raises:
        DamagedManifest: an object is damaged or gone, and nothing else holds its rows; it names object and a way out.
    """
    data = read(part.key)
    if data is not None and len(data) == part.size and are_rows(data):
        return data
    keys = [segment_key(run, number) for number in range(part.first, part.last + 1)]
    segments = [] if keys == [part.key] else [read(key) for key in keys]
    whole = [segment for segment in segments if segment and are_rows(segment)]
    if segments and len(whole) == len(segments):
        damaged(part.key)
        return b"".join(whole)
    raise DamagedManifest(f"{printable(part.key)} in the bucket is {'gone' if data is None else 'damaged'}: {HEALING}")
