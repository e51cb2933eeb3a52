"""One way to make foreign text safe to show: in a terminal, a log line, an error or the manifest."""

import unicodedata

MESSAGE_LIMIT = 500

# Cc: C0, C1, DEL. Cf: bidi overrides, zero-width. Cs: lone surrogates. Zl, Zp: break a line without being "\n".
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str, limit: int = MESSAGE_LIMIT) -> str:
    r"""`text`, harmless and at most `limit` characters long. A character that could steer a terminal or forge a log
    line is written as `\u....` (CWE-150, CWE-117). An ellipsis marks a cut."""
    shown = text[: limit + 1]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(_escaped(char) if unicodedata.category(char) in _UNSAFE else char for char in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
