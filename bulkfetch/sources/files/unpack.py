"""Gzip, unpacked as it comes."""

import zlib
from collections.abc import Iterator

from bulkfetch.errors import FatalError, UsageError
from bulkfetch.sources.files.kinds import foreign_kind
from bulkfetch.sources.files.lines import unreadable
from bulkfetch.text import printable

BLOCK = 64 * 1024
GZIP_MAGIC = b"\x1f\x8b"


class Unpacker:
    """Passes plain bytes through, and unpacks gzip (several members as one), at most a block at a time.

    Anything that begins as gzip does is taken for it, whatever its name: no text can.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._called_gzip = name.lower().endswith(".gz")
        self._gzip = False
        self._head = b""
        self._begun = False
        self._member: zlib._Decompress | None = None
        self.waiting = 0
        """Bytes that were fed and are not unpacked yet."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, in parts.

        Raises:
            UsageError: this is called gzip, and is not.
            FatalError: it is damaged.
        """
        if not self._begun:
            data = self._head + data
            self._head = b""
            if len(data) < len(GZIP_MAGIC):
                self._head = data
                return
            self._begun = True
            self._gzip = data.startswith(GZIP_MAGIC)
            if self._called_gzip and not self._gzip:
                raise self._no_gzip(data)
        if self._gzip:
            yield from self._inflate(data)
        else:
            yield data

    def finish(self) -> bytes:
        """What is left when the input has ended.

        Raises:
            UsageError: as `feed`.
            FatalError: gzip that ends too early.
        """
        if self._member is not None:
            raise self._damaged("it ends too early")
        if self._called_gzip and not self._begun:
            raise self._damaged("it ends too early") if self._head == GZIP_MAGIC[:1] else self._no_gzip(self._head)
        return self._head

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        try:
            while data or self._member is not None:
                if self._member is None:
                    data = data.lstrip(b"\0")  # padding of the member before
                    if not data:
                        break
                    self._member = zlib.decompressobj(wbits=31)
                part = self._member.decompress(data, BLOCK)
                data = self._member.unconsumed_tail
                if self._member.eof:
                    data = self._member.unused_data
                    self._member = None
                self.waiting = len(data)
                if part:
                    yield part
                if not data and len(part) < BLOCK:
                    break
        except zlib.error as error:
            raise self._damaged(str(error)) from None

    def _no_gzip(self, head: bytes) -> UsageError:
        kind = foreign_kind(head) or ("rename it if it is a plain list" if head else "the file is empty")
        return unreadable(self._name, f"the gzip data that its name promises is not there: {kind}")

    def _damaged(self, problem: str) -> FatalError:
        return FatalError(
            f"source {printable(self._name, 200)}: the gzip data cannot be unpacked: {problem}; rows before the damage "
            "were read, so have the file made anew and run again"
        )
