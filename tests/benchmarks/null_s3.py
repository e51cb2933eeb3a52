"""An S3 server that keeps no invoice, so cheap that what a client spends is the client's own.

Signatures and checksums are not looked at. It answers truly what the clients ask for: puts with and without a
condition, HEAD, GET of what is no PDF, and a listing by pages. It serves one request at a time on a connection.
"""

import asyncio
import contextlib
import re
from dataclasses import dataclass
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EXPECTATION = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
_CONDITION = re.compile(rb"\r\nif-none-match: *\*", re.IGNORECASE)
_PAGE = 1000
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_HEAD = (
    b"HTTP/1.1 %s\r\nContent-Length: %d\r\nContent-Type: application/xml\r\n"
    b'ETag: "0"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n'
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_OK, _NOT_FOUND, _TAKEN = b"200 OK", b"404 Not Found", b"412 Precondition Failed"
_PUT_DONE = _HEAD % (_OK, 0)


@dataclass(frozen=True, slots=True)
class _Kept:
    size: int
    content: bytes


class NullS3Protocol(asyncio.Protocol):
    """One connection; `objects` by path are shared by all."""

    def __init__(self, objects: dict[bytes, _Kept]) -> None:
        self._objects = objects
        self._head = b""
        self._size = self._missing = 0
        self._content = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._head += data
            start, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            self._begin(start)
        self._missing -= len(data)
        if not self._path.endswith(b".pdf"):
            self._content += data
        if not self._missing:
            self._answer()

    def _begin(self, start: bytes) -> None:
        self._method, target, _ = start[: start.index(b"\r")].split(b" ")
        self._path, _, self._query = target.partition(b"?")
        length = _LENGTH.search(start)
        self._size = self._missing = int(length[1]) if length else 0
        self._conditional = self._method == b"PUT" and _CONDITION.search(start) is not None
        self._content = b""
        if _EXPECTATION.search(start):
            self._write(_CONTINUE)

    def _answer(self) -> None:
        found = self._objects.get(self._path)
        if self._method == b"PUT":
            if found and self._conditional:
                self._write(_HEAD % (_TAKEN, 0))
            else:
                self._objects[self._path] = _Kept(self._size, self._content)
                self._write(_PUT_DONE)
        elif b"list-type=2" in self._query:
            listing = self._listing()
            self._write(_HEAD % (_OK, len(listing)) + listing)
        elif found is None:
            self._write(_HEAD % (_NOT_FOUND, 0))
        else:
            self._write(_HEAD % (_OK, found.size) + (found.content if self._method == b"GET" else b""))

    def _listing(self) -> bytes:
        asked = parse_qs(self._query.decode())
        bucket = self._path.decode().rstrip("/") + "/"
        prefix = bucket + asked.get("prefix", [""])[0]
        after = bucket + asked.get("start-after", asked.get("continuation-token", [""]))[0]
        paths = sorted(path for name in self._objects if (path := name.decode()) > after and path.startswith(prefix))
        contents = "".join(
            f"<Contents><Key>{escape(path.removeprefix(bucket))}</Key><LastModified>2026-01-01T00:00:00.000Z"
            f"</LastModified><ETag>0</ETag><Size>{self._objects[path.encode()].size}</Size></Contents>"
            for path in paths[:_PAGE]
        )
        more = ""
        if len(paths) > _PAGE:
            last = escape(paths[_PAGE - 1].removeprefix(bucket))
            more = f"<NextContinuationToken>{last}</NextContinuationToken>"
        truncated = "true" if more else "false"
        listed = f'<ListBucketResult xmlns="{_NAMESPACE}"><IsTruncated>{truncated}</IsTruncated>{more}{contents}'
        return f"{listed}</ListBucketResult>".encode()


async def _serve() -> None:
    objects: dict[bytes, _Kept] = {}
    server = await asyncio.get_running_loop().create_server(
        lambda: NullS3Protocol(objects), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
