"""What an object store's errors mean for a run: mapped here, once. Their text may hold signed URLs and stays here."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, UnauthenticatedError

from bulkfetch.errors import FatalError, InvoiceError, OriginError, PermanentError, Reason, Throttled, TransientError
from bulkfetch.net.egress import CA_LABEL, PROXY_LABEL
from bulkfetch.text import printable

_STATUS = re.compile(r"\bstatus: ([1-5][0-9]{2})\b")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_METADATA = re.compile(r"uri: Some\(\s*https?://(169\.254\.|metadata\.google\.|[^/,\s]+/latest/(api/token|meta-data/))")
_TRANSPORT = re.compile(r"\bkind: (Connect|Timeout|Request|Interrupted|Decode)\b")

_NEW_CREDENTIALS = "renew them and run the same command again"
_WRONG_KEY = "the access key is refused; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_WRONG_REGION = "the bucket is in another region; set AWS_REGION or destination.region to the bucket's own"
_DENIED = "access is denied; the credentials need s3:PutObject, s3:GetObject and s3:ListBucket here (README, S3)"
_NO_BUCKET = "there is no such bucket; create it, or check its name and the endpoint"
_NO_CREDENTIALS = (
    "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
    "(for gs:// and az://: GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY)"
)
_FULL = "the store's quota is used up; raise it and run the same command again"

_FIXES = {
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "ExpiredToken": f"the credentials have expired; {_NEW_CREDENTIALS}",
    "IllegalLocationConstraintException": _WRONG_REGION,
    "InvalidAccessKeyId": _WRONG_KEY,
    "InvalidBucketName": _NO_BUCKET,
    "InvalidToken": f"the session token is refused; {_NEW_CREDENTIALS}",
    "NoSuchBucket": _NO_BUCKET,
    "PermanentRedirect": _WRONG_REGION,
    "QuotaExceeded": _FULL,
    "RequestTimeTooSkewed": "the clocks are too far apart; set the clock of this machine",
    "SignatureDoesNotMatch": _WRONG_KEY,
    "TokenRefreshRequired": f"the credentials have expired; {_NEW_CREDENTIALS}",
    "XMinioStorageFull": _FULL,
}
_THROTTLES = {"SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded", "ThrottlingException"}
_DAMAGED = {"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_RACES = {"ConditionalRequestConflict", "OperationAborted"}
_KINDS = {"Connect": "cannot be connected to", "Timeout": "no answer in time"}
_UNSUPPORTED = (501, 505)
_THIS_ONE = {"EntityTooLarge": Reason.TOO_LARGE, "KeyTooLongError": Reason.INVALID_ID}


class Refused(FatalError):
    """The store refuses the request as such, in words of its own: it may not know something that the request asks."""


@contextmanager
def bucket_errors(label: str) -> Iterator[None]:
    """Within this block a store's error becomes what `disposition` makes of it.

    Raises:
        FileNotFoundError: there is no such object. It is raised as well where the whole bucket is gone and the store
            did not say so, for the answer to a HEAD has no text.
        FileExistsError: a create met an object.
    """
    try:
        yield
    except AlreadyExistsError as error:
        # obstore takes every 409 for "exists": also that of another put that is under way.
        if _code(str(error)) in _RACES:
            raise disposition(error, label) from None
        raise FileExistsError from None
    except FileNotFoundError as error:
        if _code(str(error)) == "NoSuchBucket":
            raise disposition(error, label) from None
        raise FileNotFoundError from None
    except TimeoutError:
        raise OriginError(Reason.STORE_ERROR, f"{_shown(label)}: no answer in time") from None
    except (BaseError, OSError, ValueError) as error:
        raise disposition(error, label) from None


def no_bucket(label: str) -> FatalError:
    """What to raise where a put was answered with "not found"."""
    return FatalError(f"{_shown(label)}: {_NO_BUCKET}")


def disposition(error: Exception, label: str) -> InvoiceError | FatalError:
    """What to raise for `error`: fatal where every other object would meet it too. `label` is shown in the message, and
    holds no credentials."""
    name, text = _shown(label), str(error)
    status, code = _status(text), _code(text)
    if isinstance(error, InvalidPathError):
        return PermanentError(Reason.INVALID_ID, f"{name}: the store takes no such key")
    if code in _FIXES or code.startswith("KMS."):
        return FatalError(f"{name}: {_FIXES.get(code, 'the encryption key cannot be used')} ({code})")
    if status is None:
        return _unanswered(error, text, name)
    answer = f"HTTP {status} {code}".strip()
    shown = f"{name}: {answer}"
    if code in _THIS_ONE:
        return PermanentError(_THIS_ONE[code], shown, http_status=status)
    if status in (429, 503) or code in _THROTTLES:
        return Throttled(Reason.STORE_ERROR, shown, http_status=status)
    if (status >= 500 and status not in _UNSUPPORTED) or status == 408 or code == "RequestTimeout":
        return OriginError(Reason.STORE_ERROR, shown, http_status=status)
    if status == 409 or code in _DAMAGED:
        return TransientError(Reason.STORE_ERROR, shown, http_status=status)
    return Refused(f"{name}: {_fix(status)} ({answer})")


def _unanswered(error: Exception, text: str, name: str) -> OriginError | FatalError:
    inner = _inner(text)
    if "BareRedirect" in inner:
        return FatalError(f"{name}: {_WRONG_REGION}")
    if isinstance(error, UnauthenticatedError) or _METADATA.search(text):
        return FatalError(f"{name}: {_NO_CREDENTIALS}")
    if "InvalidCertificate" in inner:
        return FatalError(
            f"{name}: the endpoint's TLS certificate cannot be verified; "
            f"the file of a private authority goes into {CA_LABEL}"
        )
    if "ProxyAuthRequired" in inner:
        return FatalError(f"{name}: {PROXY_LABEL} wants a user name and a password, or refuses those it got")
    if "TunnelUnsuccessful" in inner:
        return OriginError(Reason.STORE_ERROR, f"{name}: {PROXY_LABEL} does not get through to it")
    found = _TRANSPORT.search(inner)
    answer = _KINDS.get(found[1] if found else "", "no usable answer")
    return OriginError(Reason.STORE_ERROR, f"{name}: {answer}")


def _shown(label: str) -> str:
    return printable(label, 200)


def _fix(status: int) -> str:
    if status < 400:
        return _WRONG_REGION
    return {
        401: "the credentials are refused",
        403: _DENIED,
        404: _NO_BUCKET,
        501: "the store does not support what every object needs",
    }.get(status, "the store refuses what every object needs")


def _status(text: str) -> int | None:
    found = _STATUS.search(_inner(text))
    return int(found[1]) if found else None


def _code(text: str) -> str:
    found = _CODE.search(_inner(text))
    return found[1] if found else ""


def _inner(text: str) -> str:
    """What the store or the transport said; in front of it stands the key, in which anything may be written."""
    return text.partition("inner: ")[2]
