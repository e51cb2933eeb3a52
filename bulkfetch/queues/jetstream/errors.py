"""What the NATS client's errors mean for a run: mapped here, once."""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from nats import errors
from nats.js import errors as js_errors
from nats.js.api import RawStreamMsg

from bulkfetch.errors import FatalError, Reason, TransientError
from bulkfetch.text import printable

_NO_MESSAGE = 10037
"""The server's number for "no message found". It has other numbers for a stream or a consumer that is gone."""

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


async def none_if_missing(answer: Awaitable[RawStreamMsg]) -> RawStreamMsg | None:
    """The message in `answer`; None if the server has no such message in a stream that is there."""
    try:
        return await answer
    except js_errors.NotFoundError as error:
        if error.err_code != _NO_MESSAGE:
            raise
        return None


@contextmanager
def nats_errors(label: str) -> Iterator[None]:
    """Turn errors of the NATS client from within into errors of bulkfetch. Their messages begin with `label`,
    which must hold no credentials.

    Raises:
        TransientError: no answer, or no connection at the moment.
        FatalError: the stream is gone, is full or refuses, or the connection was ended for good.
    """
    try:
        yield
    except js_errors.APIError as error:
        raise _of_the_api(label, error) from None
    except _SILENT:
        raise TransientError(Reason.CONNECTION, f"{label}: no answer from the broker") from None
    except _NO_LINK as error:
        raise TransientError(Reason.CONNECTION, f"{label}: no connection ({type(error).__name__})") from None
    except errors.ConnectionClosedError:
        raise FatalError(f"{label}: the broker has ended the connection for good; check the credentials") from None
    except errors.MaxPayloadError:
        raise FatalError(f"{label}: a message is larger than the server's max_payload") from None
    except errors.Error as error:
        raise FatalError(f"{label}: {printable(str(error), 200)}") from None


def _of_the_api(label: str, error: js_errors.APIError) -> FatalError | TransientError:
    detail = printable(error.description or type(error).__name__, 200)
    if error.err_code == _NOT_STORED:
        return FatalError(
            f"{label}: the stream is full ({detail}); let workers empty it, or raise its max_msgs or max_bytes: "
            "nats stream edit"
        )
    if error.err_code in _NO_JETSTREAM:
        return FatalError(f"{label}: {detail}; switch JetStream on there (nats-server -js)")
    match error:
        case js_errors.ServiceUnavailableError():
            return TransientError(Reason.CONNECTION, f"{label}: no answer from the broker")
        case js_errors.ServerError():
            return TransientError(Reason.SERVER_ERROR, f"{label}: {detail}")
        case js_errors.NotFoundError():
            return FatalError(f"{label}: {detail}; was it deleted?")
        case _:
            return FatalError(f"{label}: the broker refuses: {detail}")
