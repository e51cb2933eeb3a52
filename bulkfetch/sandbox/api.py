"""The API port: `PUT /invoices/{id}/download-link`, as the published contract has it."""

import time
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import hdrs, web

from bulkfetch.sandbox.faults import Dice
from bulkfetch.sandbox.invoices import InvoiceBook
from bulkfetch.sandbox.signed_links import LinkSigner
from bulkfetch.sandbox.stats import Stats
from bulkfetch.sandbox.token_bucket import TokenBucket

DEFAULT_SECONDS_VALID = 86_400
MIN_SECONDS_VALID = 5
_MAX_DIGITS = 10

_PREFIX = "/invoices/"
_SUFFIX = "/download-link"
_JSON = {hdrs.CONTENT_TYPE: "application/json; charset=utf-8"}


class BillingApi:
    """Mints links; every refusal has a problem body."""

    def __init__(
        self,
        book: InvoiceBook,
        signer: LinkSigner,
        dice: Dice,
        stats: Stats,
        *,
        token: str,
        bucket: TokenBucket | None,
        record: bool,
    ) -> None:
        self._book = book
        self._signer = signer
        self._dice = dice
        self._stats = stats
        self._authorization = f"Bearer {token}"
        self._bucket = bucket
        self._record = record

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.path
        invoice_id = path[len(_PREFIX) : -len(_SUFFIX)]
        if not (path.startswith(_PREFIX) and path.endswith(_SUFFIX) and invoice_id):
            return _problem(HTTPStatus.NOT_FOUND, "There is no such route.")
        if request.method != hdrs.METH_PUT:
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED, "Only PUT is allowed here.", headers={hdrs.ALLOW: "PUT"})
        if self._record:
            self._stats.puts[invoice_id] += 1
        await self._dice.wait()
        return self._refusal(request) or self._mint(invoice_id, request.query.get("secondsValid"))

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        if request.headers.get(hdrs.AUTHORIZATION) != self._authorization:
            self._stats.unauthorized += 1
            return _problem(
                HTTPStatus.UNAUTHORIZED, "The API token is missing or wrong.", headers={hdrs.WWW_AUTHENTICATE: "Bearer"}
            )
        retry_after = 1 if self._dice.falls(self._dice.faults.throttle) else None
        if retry_after is None and self._bucket is not None:
            retry_after = self._bucket.take(time.monotonic())
        if retry_after is not None:
            self._stats.refused_429 += 1
            return _problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "The rate limit is used up.",
                headers={hdrs.RETRY_AFTER: str(retry_after)},
            )
        if (status := self._dice.server_error()) is not None:
            self._stats.errors_5xx += 1
            return _problem(HTTPStatus(status), "The sandbox was told to fail now and then.")
        return None

    def _mint(self, invoice_id: str, seconds_valid: str | None) -> web.Response:
        document = self._book.find(invoice_id)
        if document is None:
            self._stats.not_found += 1
            return _problem(HTTPStatus.NOT_FOUND, "No document has this ID.")
        seconds = DEFAULT_SECONDS_VALID if seconds_valid is None else _parse_seconds(seconds_valid)
        if seconds is None:
            return self._unprocessable("secondsValid", f"Must be an integer of at least {MIN_SECONDS_VALID}.")
        if document.draft:
            return self._unprocessable("status", "The document is a draft and has no PDF yet.")
        expired = self._dice.falls(self._dice.faults.expire)
        expires = int(time.time()) + (-1 if expired else seconds)
        self._stats.links += 1
        return web.Response(body=msgspec.json.encode({"url": self._signer.mint(invoice_id, expires)}), headers=_JSON)

    def _unprocessable(self, path: str, message: str) -> web.Response:
        self._stats.unprocessable += 1
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{path}: {message}", violation=(path, message))


def _parse_seconds(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        return None
    seconds = int(text)
    return seconds if seconds >= MIN_SECONDS_VALID else None


def _problem(
    status: HTTPStatus,
    detail: str,
    *,
    violation: tuple[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    body: dict[str, object] = {"title": "An error occurred", "status": status.value, "detail": detail}
    if violation is not None:
        body["violations"] = [{"propertyPath": violation[0], "message": violation[1]}]
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json", headers=headers
    )
