"""What makes bytes a PDF that may be archived: the same check for a download and for an object found in the archive."""

import hashlib

PDF_MARGIN = 1024
"""Bytes at head and tail in which `%PDF-` and `%%EOF` must stand: the rule of Acrobat (ISO 32000-1, annex H.3)."""


class PdfCheck:
    """Counts, hashes and looks at the two ends of a document that passes by in chunks."""

    __slots__ = ("_head", "_sha256", "_tail", "size")

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._head = b""
        self._tail = b""

    def take(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self.size += len(chunk)
        self._sha256.update(chunk)
        if len(self._head) < PDF_MARGIN:
            self._head += chunk[: PDF_MARGIN - len(self._head)]
        self._tail = chunk[-PDF_MARGIN:] if len(chunk) >= PDF_MARGIN else (self._tail + chunk)[-PDF_MARGIN:]

    def digest(self) -> bytes:
        """SHA-256 of all bytes so far."""
        return self._sha256.digest()

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes so far, in lower-case hex."""
        return self._sha256.hexdigest()

    def flaw(self) -> str | None:
        """Why the whole is no PDF, in words; None if nothing speaks against it."""
        if self.size == 0:
            return "the body is empty"
        if b"%PDF-" not in self._head:
            return f"no %PDF- in the first {PDF_MARGIN} bytes"
        if b"%%EOF" not in self._tail:
            return f"no %%EOF in the last {PDF_MARGIN} bytes"
        return None
