"""The billing API and the download host as one process that is cheap enough not to be the bottleneck.

A PUT answers with a link that carries the ID, a GET with one and the same valid PDF. Nothing is parsed that need not
be: it serves clients that send one request at a time, as HTTP/1.1 clients do.
"""

import argparse
import asyncio
import contextlib
import socket

_OBJECTS = (
    b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n",
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n",
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\n",
)
_SEND_BUFFER = 1 << 20
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
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


class StaticProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, origin: bytes, pdf_answer: bytes) -> None:
        self._links = b'{"url":"%s/' % origin
        self._pdf_answer = pdf_answer
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
        if data.startswith(b"GET "):
            self._write(self._pdf_answer)
        else:
            # PUT /invoices/{id}/download-link?secondsValid=600
            invoice_id = data[: data.index(b"\r")].split(b"/")[2]
            body = self._links + invoice_id + b'"}'
            self._write(_JSON_HEAD % len(body) + body)


async def _serve(size: int) -> None:
    pdf = pdf_of(size)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # Inherited by each connection: a whole PDF goes out in one call.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    port = listener.getsockname()[1]
    origin, answer = b"http://127.0.0.1:%d" % port, _PDF_HEAD % len(pdf) + pdf
    server = await asyncio.get_running_loop().create_server(lambda: StaticProtocol(origin, answer), sock=listener)
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--size", type=int, required=True, help="bytes of the PDF")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.parse_args().size))
