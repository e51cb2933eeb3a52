"""What an object store's errors mean for a run: mapped here, once. Their text may hold signed URLs and stays here."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, UnauthenticatedError

from bulkfetch.errors import FatalError, InvoiceError, OriginError, PermanentError, Reason, Throttled, TransientError
from bulkfetch.text import safe

_STATUS = re.compile(r"status code: ([1-5][0-9]{2})\b")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>|\"(?:code|error)\": ?\"([A-Za-z_]{1,60})\"")
_TRANSPORT = re.compile(r"\bkind: (Connect|Timeout|Request|Interrupted|Decode)\b")

_NEW_CREDENTIALS = "renew them and run the same command again"
_WRONG_KEY = "the access key is refused; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_WRONG_REGION = "the bucket is in another region; set AWS_REGION or destination.region to the bucket's own"
_DENIED = "access is denied; the credentials need s3:PutObject, s3:GetObject and s3:ListBucket here (README, S3)"
_NO_BUCKET = "there is no such bucket; create it, or check its name and the endpoint"
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
_THIS_ONE = {"EntityTooLarge": Reason.TOO_LARGE, "KeyTooLongError": Reason.INVALID_ID}


class BucketErrors:
    """Maps what obstore raises to dispositions. `place` is shown in messages, and holds no credentials."""

    def __init__(self, place: str) -> None:
        self._place = safe(place, 200)

    @contextmanager
    def mapping(self) -> Iterator[None]:
        """Raise what `mapped` makes of a store's error from within.

        Raises:
            FileNotFoundError: there is no such object; nor is there where the whole bucket is gone and the store did
                not say so, for the answer to a HEAD has no text.
            FileExistsError: a create met an object.
        """
        try:
            yield
        except AlreadyExistsError as error:
            # obstore takes every 409 for "exists": also that of another put that is under way.
            if self._code(str(error)) in _RACES:
                raise self.mapped(error) from None
            raise FileExistsError from None
        except FileNotFoundError as error:
            if self._code(str(error)) == "NoSuchBucket":
                raise self.mapped(error) from None
            raise FileNotFoundError from None
        except TimeoutError:
            raise OriginError(Reason.STORE_ERROR, f"{self._place}: no answer in time") from None
        except (BaseError, OSError, ValueError) as error:
            raise self.mapped(error) from None

    def no_bucket(self) -> FatalError:
        """What to raise where a put was answered with "not found"."""
        return FatalError(f"{self._place}: {_NO_BUCKET}")

    def mapped(self, error: Exception) -> InvoiceError | FatalError:
        """What to raise for `error`: fatal where every other object would meet it too."""
        text = str(error)
        status, code = self._status(text), self._code(text)
        if isinstance(error, InvalidPathError):
            return PermanentError(Reason.INVALID_ID, f"{self._place}: the store takes no such key")
        if code in _FIXES or code.startswith("KMS."):
            return FatalError(f"{self._place}: {_FIXES.get(code, 'the encryption key cannot be used')} ({code})")
        if code in _THIS_ONE:
            return PermanentError(_THIS_ONE[code], f"{self._place}: refused ({code})", http_status=status)
        said = f"{self._place}: {f'HTTP {status} {code}'.strip() if status else 'no usable answer'}"
        if status in (429, 503) or code in _THROTTLES:
            return Throttled(Reason.STORE_ERROR, said, http_status=status)
        if code in _DAMAGED or code in _RACES:
            return TransientError(Reason.STORE_ERROR, said, http_status=status)
        if status is None:
            return self._unanswered(error, text)
        if status >= 500 or status == 408 or code == "RequestTimeout":
            return OriginError(Reason.STORE_ERROR, said, http_status=status)
        if status == 409:
            return TransientError(Reason.STORE_ERROR, said, http_status=status)
        return FatalError(f"{self._place}: {self._fix(status)} ({said.removeprefix(self._place + ': ')})")

    def _unanswered(self, error: Exception, text: str) -> OriginError | FatalError:
        if "redirect without LOCATION" in text:
            return FatalError(f"{self._place}: {_WRONG_REGION}")
        if isinstance(error, UnauthenticatedError) or "169.254.169.254" in text or "169.254.170." in text:
            return FatalError(
                f"{self._place}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if "certificate" in text:
            return FatalError(f"{self._place}: the endpoint's TLS certificate cannot be verified")
        kinds = {"Connect": "cannot be connected to", "Timeout": "no answer in time"}
        found = _TRANSPORT.search(text)
        said = kinds.get(found[1] if found else "", "no usable answer")
        return OriginError(Reason.STORE_ERROR, f"{self._place}: {said}")

    @staticmethod
    def _fix(status: int) -> str:
        if status < 400:
            return _WRONG_REGION
        return {
            401: "the credentials are refused",
            403: _DENIED,
            404: _NO_BUCKET,
            501: "the store does not support what is asked of it",
        }.get(status, "the store refuses what every object needs")

    @staticmethod
    def _status(text: str) -> int | None:
        found = _STATUS.search(text)
        return int(found[1]) if found else None

    @staticmethod
    def _code(text: str) -> str:
        found = _CODE.search(text)
        return (found[1] or found[2]) if found else ""
