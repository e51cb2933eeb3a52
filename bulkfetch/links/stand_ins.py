"""What servers send with a good status in place of a document: most say so that it is not there yet."""

import re

from bulkfetch.pdf import PDF_MARGIN

_MARK = b"%PDF-"
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[\"]")
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<[?!][^>]*>\s*)*<(?:html|head|body|title|meta|script|div|p|h1)\b", re.IGNORECASE
)


def stand_in(head: bytes, content_type: str | None) -> str | None:
    """What came in place of a document that begins with `head`, where it is something that a server says: nothing,
    JSON or HTML. None where it may be a document of some other kind, or a damaged one."""
    if not head:
        return "nothing"
    if _JSON.match(head):
        return "JSON"
    if _HTML.match(head):
        return "HTML"
    if _MARK in head[:PDF_MARGIN]:
        return None
    label = (content_type or "").partition(";")[0].strip().lower()
    return {"application/json": "JSON", "application/problem+json": "JSON", "text/html": "HTML"}.get(label)
