"""Signed links that expire, as an object store's."""

import hmac
from enum import Enum, auto


class LinkState(Enum):
    """What a link is worth to the files port."""

    VALID = auto()
    EXPIRED = auto()
    FORGED = auto()


class LinkSigner:
    """Mints and judges links. Expiry is in whole seconds since the epoch; `key` never leaves the process."""

    def __init__(self, files_url: str, key: bytes) -> None:
        self._files_url = files_url
        self._key = key

    def mint(self, invoice_id: str, expires: int) -> str:
        """A link to `invoice_id`'s PDF that is dead from `expires` on."""
        signature = self._sign(invoice_id, str(expires))
        return f"{self._files_url}/documents/{invoice_id}?expires={expires}&signature={signature}"

    def judge(self, invoice_id: str, expires: str, signature: str, now: float) -> LinkState:
        """Whether the link was minted here for this ID, and lives."""
        if not hmac.compare_digest(self._sign(invoice_id, expires).encode(), signature.encode()):
            return LinkState.FORGED
        return LinkState.VALID if now < int(expires) else LinkState.EXPIRED

    def _sign(self, invoice_id: str, expires: str) -> str:
        return hmac.digest(self._key, f"{invoice_id}\n{expires}".encode(), "sha256").hex()
