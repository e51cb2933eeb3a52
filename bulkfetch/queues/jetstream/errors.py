"""What the NATS client's errors mean for a run: mapped here, once."""

from collections.abc import Iterator
from contextlib import contextmanager

from nats import errors
from nats.js import errors as js_errors

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.text import safe

NO_MESSAGE = 10037
"""The server's number for "no message found"; of a stream or consumer that is gone it says something else."""

_WRONG_SEQUENCE = (10071, 10164)
_NOT_STORED = 10077
_PER_SUBJECT = "per subject"
_NO_JETSTREAM = (10039, 10076)

_SILENT = (TimeoutError, errors.NoRespondersError, js_errors.NoStreamResponseError, js_errors.ServiceUnavailableError)
_NO_LINK = (
    errors.ConnectionReconnectingError,
    errors.StaleConnectionError,
    errors.OutboundBufferLimitError,
    errors.SlowConsumerError,
    OSError,
)


def is_queued_already(error: js_errors.APIError) -> bool:
    """Whether a message was refused because its subject holds one."""
    per_subject = error.err_code == _NOT_STORED and _PER_SUBJECT in (error.description or "")
    return per_subject or error.err_code in _WRONG_SEQUENCE


@contextmanager
def nats_errors(place: str) -> Iterator[None]:
    """Raise what a NATS client's error from within means; `place` is shown, and holds no credentials.

    Raises:
        TransientError: no answer, or no connection at the moment.
        FatalError: the stream is gone, is full or refuses, or the connection was ended for good.
    """
    try:
        yield
    except js_errors.APIError as error:
        raise _of_the_api(place, error) from None
    except _SILENT:
        raise TransientError(Reason.CONNECTION, f"{place}: no answer from the broker") from None
    except _NO_LINK as error:
        raise TransientError(Reason.CONNECTION, f"{place}: no connection ({type(error).__name__})") from None
    except errors.ConnectionClosedError:
        raise FatalError(f"{place}: the broker has ended the connection for good; check the credentials") from None
    except errors.MaxPayloadError:
        raise FatalError(f"{place}: a message is larger than the server's max_payload") from None
    except errors.Error as error:
        raise FatalError(f"{place}: {safe(str(error), 200)}") from None


def _of_the_api(place: str, error: js_errors.APIError) -> FatalError | TransientError:
    said = safe(error.description or type(error).__name__, 200)
    if error.err_code == _NOT_STORED:
        return FatalError(
            f"{place}: the stream is full ({said}); let workers empty it, or raise its max_msgs or max_bytes: "
            "nats stream edit"
        )
    if error.err_code in _NO_JETSTREAM:
        return FatalError(f"{place}: {said}; switch JetStream on there (nats-server -js)")
    match error:
        case js_errors.ServiceUnavailableError():
            return TransientError(Reason.CONNECTION, f"{place}: no answer from the broker")
        case js_errors.ServerError():
            return TransientError(Reason.SERVER_ERROR, f"{place}: {said}")
        case js_errors.NotFoundError():
            return FatalError(f"{place}: {said}; was it deleted?")
        case _:
            return FatalError(f"{place}: the broker refuses: {said}")
