"""The billing API and the download host as one process that is cheap enough not to be the bottleneck.

A PUT answers with a link that carries the ID, a GET with one and the same valid PDF. Nothing is parsed that need not
be: it serves clients that send one request at a time, as HTTP/1.1 clients do. With `--delay` every answer comes that
many seconds later, as over a long line; with `--error-every N` each N-th request is answered with a 503.
"""

import argparse
import asyncio
import contextlib
import socket
from dataclasses import dataclass

_OBJECTS = (
    b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n",
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n",
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\n",
)
_SEND_BUFFER = 1 << 20
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_PDF_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nContent-Length: %d\r\n\r\n"


def pdf_of(size: int) -> bytes:
    """A valid PDF of one empty page, of exactly `size` bytes, at least 512; a comment fills it up."""
    document, table = b"%PDF-1.7\n", b"xref\n0 4\n0000000000 65535 f \n"
    for definition in _OBJECTS:
        table += b"%010d 00000 n \n" % len(document)
        document += definition
    tail = table + b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n%010d\n%%%%EOF\n"
    document += b"%".ljust(size - len(document) - len(tail % 0) - 1, b"x") + b"\n"
    return document + tail % len(document)


@dataclass(slots=True)
class Site:
    """What all connections share."""

    links: bytes
    pdf_head: bytes
    pdf_answer: bytes
    delay: float
    error_every: int
    requests: int = 0

    def fails(self) -> bool:
        """Count one more request, and say whether it is one of those that fail."""
        self.requests += 1
        return self.error_every > 0 and self.requests % self.error_every == 0


class StaticProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        if self._request:
            data = self._request + data
        if not data.endswith(b"\r\n\r\n"):
            self._request = data
            return
        self._request = b""
        answer = _UNAVAILABLE if self._site.fails() else self._answer(data)
        if self._site.delay:
            asyncio.get_running_loop().call_later(self._site.delay, self._write, answer)
        else:
            self._write(answer)

    def _answer(self, request: bytes) -> bytes:
        if request.startswith(b"GET "):
            return self._site.pdf_answer
        if request.startswith(b"HEAD "):
            return self._site.pdf_head
        # PUT /invoices/{id}/download-link?secondsValid=600
        invoice_id = request[: request.index(b"\r")].split(b"/")[2]
        body = self._site.links + invoice_id + b'"}'
        return _JSON_HEAD % len(body) + body


async def _serve(size: int, delay: float, error_every: int) -> None:
    pdf = pdf_of(size)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # Inherited by each connection: a whole PDF goes out in one call.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    port = listener.getsockname()[1]
    links = b'{"url":"http://127.0.0.1:%d/' % port
    head = _PDF_HEAD % len(pdf)
    site = Site(links, head, head + pdf, delay, error_every)
    server = await asyncio.get_running_loop().create_server(lambda: StaticProtocol(site), sock=listener)
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--size", type=int, required=True, help="bytes of the PDF")
    arguments.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    arguments.add_argument("--error-every", type=int, default=0, metavar="N", help="answer each N-th request with 503")
    given = arguments.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(given.size, given.delay, given.error_every))
