"""How an input row that names no usable invoice is shown: bounded and escaped, whatever it holds."""

from bulkfetch.text import printable

RAW_LIMIT = 200


def raw_text(raw: bytes | str, limit: int = RAW_LIMIT) -> str:
    """`raw` for a person, in at most `limit` characters; bytes that are not UTF-8 are shown in hex."""
    return printable(raw if isinstance(raw, str) else raw[: 4 * limit].decode("utf-8", "backslashreplace"), limit)
