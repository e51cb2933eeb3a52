"""What SQS's and botocore's errors mean for a run: mapped here, once.

Of an answer only its code is shown: the text of a refused signature quotes the signed request, session token included.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
from botocore import exceptions
from botocore.parsers import ResponseParserError

from bulkfetch.errors import FatalError, Reason, TransientError, UsageError
from bulkfetch.text import printable

ENDED = frozenset({"InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid"})
"""The codes by which SQS says that the lease of a receipt has ended. The first one means other things elsewhere."""

_CODE = re.compile(r"[A-Za-z0-9._:-]{1,80}")

_WRONG_KEY = "the access key is refused; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_EXPIRED = "the credentials have expired; renew them and run the same command again"
_DENIED = "access is denied; the credentials need this action on the queue and on its dead-letter queue"
_NO_CREDENTIALS = "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NO_REGION = "the region is not known; set AWS_REGION to the queue's own"
_SETTINGS = "the AWS_ variables or configuration files cannot be used"

_FIXES = {
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "AuthorizationError": _DENIED,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "IncompleteSignature": _WRONG_KEY,
    "InvalidAccessKeyId": _WRONG_KEY,
    "InvalidAddress": "the queue is in another region or account; check AWS_REGION and the queue's URL",
    "InvalidClientTokenId": _WRONG_KEY,
    "InvalidSecurity": "the endpoint wants https://",
    "InvalidSignatureException": _WRONG_KEY,
    "MissingAuthenticationToken": _NO_CREDENTIALS,
    "NotAuthorized": _DENIED,
    "OptInRequired": "the account is not signed up for SQS in this region",
    "QueueDeletedRecently": "a queue of this name was deleted a moment ago; try again in a minute",
    "RequestExpired": "the clocks are too far apart; set the clock of this machine",
    "SignatureDoesNotMatch": f"{_WRONG_KEY}, and the clock of this machine",
    "UnrecognizedClientException": _WRONG_KEY,
}
_NO_QUEUE = {"NonExistentQueue", "QueueDoesNotExist"}
_COMES_BACK = {
    "InternalError",
    "InternalFailure",
    "KmsThrottled",
    # 120 000 messages are leased, by workers or by listings of dead letters.
    "OverLimit",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}

_UNSET = (exceptions.NoRegionError, exceptions.InvalidRegionError)
_UNUSABLE = (
    exceptions.PartialCredentialsError,
    exceptions.ProfileNotFound,
    exceptions.ConfigNotFound,
    exceptions.ConfigParseError,
    exceptions.InvalidConfigError,
    exceptions.BaseEndpointResolverError,
)
_NOT_RENEWED = (
    exceptions.CredentialRetrievalError,
    exceptions.MetadataRetrievalError,
    exceptions.TokenRetrievalError,
)
_NO_LINK = (exceptions.ConnectionError, exceptions.HTTPClientError, aiohttp.ClientError, OSError)


class LeaseEnded(FatalError):
    """The lease of a message has ended, and with it the receipt. Mostly harmless, as the message comes again."""


class QueueMissing(FatalError):
    """There is no such queue."""


@contextmanager
def sqs_errors(label: str) -> Iterator[None]:
    """Turn errors of SQS and its client from within into errors of bulkfetch. Their messages begin with `label`, which
    must hold no credentials.

    Raises:
        TransientError: no answer, throttled, or SQS failed.
        LeaseEnded: a delete by a receipt came too late.
        QueueMissing: there is no such queue, or it is gone.
        FatalError: SQS refuses.
        UsageError: the settings cannot be used.
    """
    try:
        try:
            yield
        except exceptions.ClientError as error:
            raise _answered(label, error) from None
        except (exceptions.BotoCoreError, ResponseParserError, aiohttp.ClientError, OSError) as error:
            raise _unanswered(label, error) from None
    except (TransientError, FatalError) as error:
        # `from None` hides the original, but leaves it within reach of whoever prints a whole chain.
        error.__context__ = None
        raise


def check_batch(label: str, answer: Mapping[str, Any], sent: Sequence[str], *, ignored: Collection[str] = ()) -> None:
    """See that SQS took each of `sent`, descriptions of the entries of a batch. Each entry's ID is its index.

    Raises:
        TransientError: SQS did not take all of them; they may be sent again.
        FatalError: SQS refuses one of them for good.
    """
    failed = [entry for entry in answer.get("Failed", ()) if _shown(entry.get("Code")) not in ignored]
    for entry in failed:
        code = _shown(entry.get("Code"))
        if entry.get("SenderFault") and code not in _COMES_BACK:
            raise FatalError(f"{label}: {printable(sent[int(entry['Id'])], 100)} is refused: {_fix(code)}")
    if failed:
        raise TransientError(Reason.SERVER_ERROR, f"{label}: not all was taken ({_shown(failed[0].get('Code'))})")
    if len(answer.get("Successful", ())) + len(answer.get("Failed", ())) < len(sent):
        raise no_answer(label)


def no_answer(label: str) -> TransientError:
    """The error for an answer that does not come from SQS, but perhaps from a proxy."""
    return TransientError(Reason.CONNECTION, f"{label}: no usable answer; is the endpoint SQS?")


def _answered(label: str, error: exceptions.ClientError) -> TransientError | FatalError:
    detail = error.response.get("Error", {})
    # SQS names some errors twice: as its first protocol did, behind "AWS.SimpleQueueService.", and as it does now.
    code = _shown(detail.get("QueryErrorCode") or detail.get("Code"))
    operation = _shown(error.operation_name)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
    if code in ENDED and operation == "DeleteMessage":
        return LeaseEnded(f"{label}: the lease has ended ({operation}: {code})")
    if code in _NO_QUEUE:
        return QueueMissing(f"{label}: the queue is gone; was it deleted? ({operation}: {code})")
    if code in _COMES_BACK or status >= 500 or status in (408, 429):
        return TransientError(Reason.SERVER_ERROR, f"{label}: SQS failed ({operation}: {code})", http_status=status)
    return FatalError(f"{label}: {operation}: {_fix(code)}")


def _fix(code: str) -> str:
    if code.startswith("Kms"):
        return f"the queue's encryption key cannot be used; check it and its policy ({code})"
    return f"{_FIXES[code]} ({code})" if code in _FIXES else f"SQS says {code}"


def _shown(code: object) -> str:
    text = str(code).rpartition(".")[2]
    return text if _CODE.fullmatch(text) else "an unknown error"


def _unanswered(label: str, error: Exception) -> TransientError | FatalError:
    kind = type(error).__name__
    match error:
        case exceptions.NoCredentialsError():
            return FatalError(f"{label}: {_NO_CREDENTIALS}")
        case exceptions.UnauthorizedSSOTokenError() | exceptions.SSOTokenLoadError():
            return FatalError(f"{label}: the SSO session has ended; run `aws sso login` again")
        case _ if isinstance(error, _UNSET):
            return UsageError(f"{label}: {_NO_REGION}")
        case _ if isinstance(error, _UNUSABLE):
            return UsageError(f"{label}: {_SETTINGS} ({kind})")
        case _ if isinstance(error, _NOT_RENEWED):
            return TransientError(Reason.CONNECTION, f"{label}: the credentials could not be renewed ({kind})")
        case exceptions.SSLError():
            return TransientError(Reason.CONNECTION, f"{label}: no TLS connection; check the endpoint's certificate")
        case TimeoutError() | exceptions.ReadTimeoutError() | exceptions.ConnectTimeoutError():
            return TransientError(Reason.CONNECTION, f"{label}: no answer in time")
        case _ if isinstance(error, _NO_LINK):
            return TransientError(Reason.CONNECTION, f"{label}: no connection ({kind})")
        case ResponseParserError():
            return no_answer(label)
        case _:
            return FatalError(f"{label}: the request could not be made ({kind})")
