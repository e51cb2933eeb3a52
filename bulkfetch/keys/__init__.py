"""What an invoice ID may look like, the key its document is kept under, and the names an archive keeps for itself."""

from bulkfetch.keys.invoice_id import ID_LIMIT, check_invoice_id, is_plain_id
from bulkfetch.keys.names import KEY_LIMIT, SEGMENT_LIMIT, fold
from bulkfetch.keys.paths import MANIFESTS, STATE, KeyPath, key_path
from bulkfetch.keys.template import KeyTemplate

__all__ = [
    "ID_LIMIT",
    "KEY_LIMIT",
    "MANIFESTS",
    "SEGMENT_LIMIT",
    "STATE",
    "KeyPath",
    "KeyTemplate",
    "check_invoice_id",
    "fold",
    "is_plain_id",
    "key_path",
]
