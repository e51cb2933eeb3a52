"""What the operating system's errors mean for a run into a directory: mapped here, once."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bulkfetch.durable import explain
from bulkfetch.errors import FatalError, InvoiceError, PermanentError, Reason, TransientError
from bulkfetch.text import printable

EIO_LIMIT = 3

_MEETS_EVERY_OBJECT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EXDEV,
}


@dataclass(slots=True)
class Destination:
    """A destination: its name as shown in messages, and how many input/output errors it has had in a row.

    Whoever writes to the disk sets `io_errors` to 0 with every success.
    """

    name: str
    io_errors: int = 0


@contextmanager
def local_errors(destination: Destination) -> Iterator[None]:
    """Within this block an OSError becomes what `disposition` makes of it."""
    try:
        yield
    except OSError as error:
        raise disposition(error, destination) from error


def disposition(error: OSError, destination: Destination) -> InvoiceError | FatalError:
    """What to raise for `error`: fatal where every other object would meet it too."""
    if error.errno in _MEETS_EVERY_OBJECT:
        return unusable(error, destination)
    if error.errno == errno.ENAMETOOLONG:
        return PermanentError(Reason.STORE_ERROR, f"{printable(destination.name)}: {explain(error)}")
    if error.errno == errno.EIO:
        destination.io_errors += 1
        if destination.io_errors >= EIO_LIMIT:
            many = f"{destination.io_errors} input/output errors in a row; check the disk (see dmesg)"
            return FatalError(f"{printable(destination.name)}: {many}")
    return TransientError(Reason.STORE_ERROR, f"{printable(destination.name)}: {explain(error)}")


def unusable(error: OSError, destination: Destination) -> FatalError:
    """What to raise where `error` says that nothing can be stored at all."""
    return FatalError(f"{printable(destination.name)}: {explain(error)}")
