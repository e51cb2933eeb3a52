"""What the operating system's errors mean for a run: mapped here, once."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.text import safe

EIO_LIMIT = 3

_FIXES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; raise it and run the same command again",
    errno.EROFS: "the file system is read-only; mount it writable and run the same command again",
    errno.EACCES: "permission denied; let this user write to it, or choose another destination",
    errno.EPERM: "operation not permitted; the file system must allow this user hard links and changes of mode",
    errno.EEXIST: "it is not a directory; choose another destination",
    errno.ENOTDIR: "it, or something on its way, is not a directory; choose another destination",
    errno.EXDEV: "part of it is another file system; keep the whole archive, .bulkfetch included, on one",
}


class ErrorMap:
    """Maps `OSError`s to dispositions, and knows how many I/O errors came in a row. `place` is shown in messages."""

    def __init__(self, place: str) -> None:
        self._place = safe(place)
        self._io_errors = 0

    def mapped(self, error: OSError) -> TransientError | FatalError:
        """What to raise for `error`: fatal where every other object would meet it too."""
        if error.errno in _FIXES:
            return self.unusable(error)
        if error.errno == errno.EIO:
            self._io_errors += 1
            if self._io_errors >= EIO_LIMIT:
                return FatalError(
                    f"{self._place}: {self._io_errors} input/output errors in a row; check the disk (see dmesg)"
                )
        return TransientError(Reason.STORE_ERROR, f"{self._place}: {_description(error)}")

    def unusable(self, error: OSError) -> FatalError:
        """What to raise where `error` says that nothing can be stored at all."""
        return FatalError(f"{self._place}: {_FIXES.get(error.errno or 0) or _description(error)}")

    def recovered(self) -> None:
        """Say that a write reached the disk, which ends a row of I/O errors."""
        self._io_errors = 0

    @contextmanager
    def mapping(self) -> Iterator[None]:
        """Raise what `mapped` makes of any `OSError` from within."""
        try:
            yield
        except OSError as error:
            raise self.mapped(error) from error


def _description(error: OSError) -> str:
    return safe(error.strerror or type(error).__name__)
