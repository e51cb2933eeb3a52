"""URLs as they are sent: a signature covers the exact spelling, so nothing is changed that can be sent as it is."""

import re

from yarl import URL

_UNSENDABLE = re.compile(rb"[^\x21-\x7e]")
_AUTHORITY = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)([^/?#]*)")


def sendable(text: str) -> URL:
    """The URL in `text`, every byte of its path and query as it stands. Only what no request line can carry, blanks and
    what is not ASCII, is percent-encoded: as UTF-8, or as the bytes that surrogates stand for. Blanks around it are
    none of its own.

    Raises:
        ValueError: this is no URL, or holds a line break.
    """
    text = text.strip(" \t\r\n")
    if "\r" in text or "\n" in text:
        raise ValueError("a line break")
    # A fragment is never sent.
    text = text.partition("#")[0]
    authority = _AUTHORITY.match(text)
    place = authority.end() if authority else 0
    sent = _UNSENDABLE.sub(lambda byte: b"%%%02X" % byte[0][0], text[place:].encode("utf-8", "surrogateescape"))
    url = URL((_ascii(*authority.groups()) if authority else "") + sent.decode("ascii"), encoded=True)
    return _with_mark(url) if sent.endswith(b"?") else url


def redirected(url: URL, location: str) -> URL:
    """Where an answer from `url` with this `Location` leads, spelt as there.

    Raises:
        ValueError: that is no URL.
    """
    location = location.strip(" \t")
    if location.startswith("//"):
        return sendable(f"{url.scheme}:{location}")
    if location.startswith("/"):
        return sendable(f"{url.scheme}://{url.raw_authority}{location}")
    target = sendable(location)
    if target.scheme:
        return target
    return _with_mark(url.join(target)) if location.endswith("?") else url.join(target)


def _with_mark(url: URL) -> URL:
    """`url` with the question mark of an empty query: yarl takes that for none, and has no other way to keep it."""
    if not url.raw_query_string:
        url._cache["raw_path_qs"] = f"{url.raw_path or '/'}?"  # noqa: SLF001
    return url


def _ascii(scheme: str, authority: str) -> str:
    """`scheme` and `authority`, with an international name in the form that is looked up."""
    if authority.isascii():
        return scheme + authority
    return scheme + URL(f"http://{authority}").raw_authority
