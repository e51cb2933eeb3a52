"""What the NATS client's errors mean for a run: mapped here, once."""

from collections.abc import Iterator
from contextlib import contextmanager

from nats import errors
from nats.js import errors as js_errors

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.text import safe

ALREADY_QUEUED = "maximum messages per subject exceeded"
WRONG_REVISION = 10071

_SILENT = (TimeoutError, errors.NoRespondersError, js_errors.NoStreamResponseError, js_errors.ServiceUnavailableError)
_NO_LINK = (
    errors.ConnectionReconnectingError,
    errors.StaleConnectionError,
    errors.OutboundBufferLimitError,
    errors.SlowConsumerError,
    OSError,
)


@contextmanager
def nats_errors(place: str) -> Iterator[None]:
    """Raise what a NATS client's error from within means; `place` is shown, and holds no credentials.

    Raises:
        TransientError: no answer, or no connection at the moment.
        FatalError: the stream is gone or refuses, or the connection was ended for good.
    """
    try:
        yield
    except _SILENT:
        raise TransientError(Reason.CONNECTION, f"{place}: no answer from the broker") from None
    except _NO_LINK as error:
        raise TransientError(Reason.CONNECTION, f"{place}: no connection ({type(error).__name__})") from None
    except js_errors.NotFoundError as error:
        raise FatalError(f"{place}: {_said(error)}; was it deleted?") from None
    except js_errors.ServerError as error:
        raise TransientError(Reason.SERVER_ERROR, f"{place}: {_said(error)}") from None
    except js_errors.APIError as error:
        raise FatalError(f"{place}: the broker refuses: {_said(error)}") from None
    except errors.ConnectionClosedError:
        raise FatalError(f"{place}: the broker has ended the connection for good; check the credentials") from None
    except errors.Error as error:
        raise FatalError(f"{place}: {safe(str(error), 200)}") from None


def _said(error: js_errors.APIError) -> str:
    return safe(error.description or type(error).__name__, 200)
