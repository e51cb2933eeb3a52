"""What obstore's errors come to, for those that a server on loopback cannot bring about."""

import anyio
import pytest
from obstore.exceptions import GenericError, InvalidPathError, UnauthenticatedError

from bulkfetch.errors import FatalError, OriginError, PermanentError
from bulkfetch.stores.bucket.errors import bucket_errors

HEAD = "Generic S3 error: Error performing PUT {uri} in 1ms - HTTP error\n\nDebug source:\n"
REQUEST = "RetryErrorImpl {{ method: PUT, uri: Some(\n  {uri},\n), retries: 0, inner: {inner} }}"


def text(inner: str, uri: str = "https://s3.example/b/a.pdf") -> str:
    return HEAD.format(uri=uri) + REQUEST.format(uri=uri, inner=inner)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (GenericError(text("Http(kind: Connect, InvalidCertificate(Expired))")), FatalError, "TLS certificate"),
        (GenericError(text("Http(kind: Timeout)")), OriginError, "in time"),
        (GenericError(text("Http(kind: Decode)")), OriginError, "no usable answer"),
        (GenericError("something new"), OriginError, "no usable answer"),
        (
            GenericError(text("Http(kind: Connect)", "http://169.254.169.254/latest/api/token")),
            FatalError,
            "AWS_PROFILE",
        ),
        (
            GenericError(text("Http(kind: Timeout)", "http://127.0.0.1:9/latest/api/token")),
            FatalError,
            "no credentials found",
        ),
        (UnauthenticatedError("no"), FatalError, "AWS_PROFILE"),
        (InvalidPathError("a//b"), PermanentError, "no such key"),
    ],
)
def test_errors_without_an_answer(error, kind, says) -> None:
    """What went wrong on the way is told from obstore's text, and nothing of that text but our own words is shown."""
    with pytest.raises(kind, match=says) as caught, bucket_errors("s3://b"):
        raise error
    assert "://s3.example" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["<Code>AccessDenied</Code>", "status: 403", "InvalidCertificate", "169.254.169.254"])
def test_a_key_cannot_pass_for_an_answer(name) -> None:
    """Words of a key that stand in the error's text do not decide what the error is."""
    error = GenericError(text("Status { status: 500, body: None }", f"https://s3.example/b/{name}"))
    with pytest.raises(OriginError, match="HTTP 500"), bucket_errors("s3://b"):
        raise error


@pytest.mark.anyio
async def test_a_deadline_is_the_stores_failure() -> None:
    """A deadline that passes counts against the store."""
    with pytest.raises(OriginError, match="in time"), bucket_errors("s3://b"), anyio.fail_after(0.01):
        await anyio.sleep_forever()
