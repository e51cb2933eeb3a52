"""The names that an archive keeps for itself, and a key as a path below the archive."""

from bulkfetch.errors import PermanentError, Reason
from bulkfetch.text import printable

MANIFESTS = "manifests"
"""The folder of an archive that holds the manifests and summaries of its runs."""

STATE = ".bulkfetch"
"""The folder of an archive that holds everything else that is no object: lock, ledger, temporary files, quarantine."""

_NO_NAMES = frozenset({"", ".", ".."})

KeyPath = tuple[str, ...]
"""A key's components; the last is the file's name."""


def key_path(key: str) -> KeyPath:
    """The components of `key`.

    Raises:
        PermanentError: `invalid_id`: the key would leave the archive, or meet the store's own files, or is no file
            name.
    """
    path = tuple(key.split("/"))
    if "\0" in key or path[0] == STATE or not _NO_NAMES.isdisjoint(path) or not _can_be_written(key):
        raise PermanentError(Reason.INVALID_ID, f"{printable(key, 200)!r} cannot be a key")
    return path


def _can_be_written(key: str) -> bool:
    try:
        return key.isascii() or bool(key.encode())
    except UnicodeEncodeError:
        return False
