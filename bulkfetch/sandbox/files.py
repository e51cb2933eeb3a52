"""The files port: serves what a signed link names, as an object store would. It knows no token."""

import time
from http import HTTPStatus

from aiohttp import hdrs, web

from bulkfetch.sandbox.faults import Dice
from bulkfetch.sandbox.invoices import Document, InvoiceBook
from bulkfetch.sandbox.pdf import render
from bulkfetch.sandbox.signed_links import LinkSigner, LinkState
from bulkfetch.sandbox.stats import Stats

_PREFIX = "/documents/"
_PDF = "application/pdf"
_NO_PDF = b"<?xml version='1.0' encoding='UTF-8'?>\n<Invoice>the data of an invoice, without its picture</Invoice>\n"


class FileHost:
    """Serves PDFs; every refusal has an XML body."""

    def __init__(self, book: InvoiceBook, signer: LinkSigner, dice: Dice, stats: Stats, *, record: bool) -> None:
        self._book = book
        self._signer = signer
        self._dice = dice
        self._stats = stats
        self._record = record

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        invoice_id = request.path.removeprefix(_PREFIX)
        if self._record:
            self._stats.gets[invoice_id] += 1
        if hdrs.AUTHORIZATION in request.headers:
            self._stats.authorization_leaks += 1
            return _error(HTTPStatus.BAD_REQUEST, "InvalidArgument", "A signed link takes no Authorization header.")
        if request.method != hdrs.METH_GET:
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", "Only GET.", headers={hdrs.ALLOW: "GET"})
        await self._dice.wait()
        if (status := self._dice.server_error()) is not None:
            self._stats.errors_5xx += 1
            return _error(HTTPStatus(status), "InternalError", "The sandbox was told to fail now and then.")
        return self._refusal(invoice_id, request) or await self._serve(invoice_id, request)

    def _refusal(self, invoice_id: str, request: web.BaseRequest) -> web.Response | None:
        query = request.query
        state = self._signer.judge(invoice_id, query.get("expires", ""), query.get("signature", ""), time.time())
        if state is LinkState.EXPIRED:
            self._stats.expired += 1
            return _error(HTTPStatus.FORBIDDEN, "AccessDenied", "The link has expired.")
        if state is LinkState.FORGED:
            self._stats.forged += 1
            return _error(HTTPStatus.FORBIDDEN, "SignatureDoesNotMatch", "The link was not signed here.")
        return None

    async def _serve(self, invoice_id: str, request: web.BaseRequest) -> web.StreamResponse:
        document = self._book.find(invoice_id)
        if document is None:
            return _error(HTTPStatus.NOT_FOUND, "NoSuchKey", "There is no such document.")
        if self._dice.falls(self._dice.faults.not_pdf):
            self._stats.not_pdf += 1
            return web.Response(body=_NO_PDF, content_type="application/xml")
        if self._dice.falls(self._dice.faults.truncate):
            self._stats.truncated += 1
            return await _cut(document, request)
        self._stats.downloads += 1
        return web.Response(body=render(document), headers={hdrs.CONTENT_TYPE: _PDF})


async def _cut(document: Document, request: web.BaseRequest) -> web.StreamResponse:
    """Promise the whole PDF, send half of it and hang up."""
    pdf = render(document)
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: _PDF, hdrs.CONTENT_LENGTH: str(len(pdf))})
    await response.prepare(request)
    await response.write(pdf[: len(pdf) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _error(status: HTTPStatus, code: str, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        text=f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>',
        content_type="application/xml",
        headers=headers,
    )
