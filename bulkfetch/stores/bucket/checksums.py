"""The SHA-256 that an S3 store keeps with an object since it was put. It tells it only if asked by a signed header,
which obstore cannot send."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import aiohttp
import obstore
from obstore.store import S3Store
from yarl import URL

from bulkfetch.errors import OriginError, Reason, Throttled
from bulkfetch.models import ReadBack, Secret
from bulkfetch.net.http_errors import http_errors
from bulkfetch.stores.bucket.address import Bucket
from bulkfetch.stores.bucket.errors import bucket_errors

_HEADER = "x-amz-checksum-sha256"
_NO_BODY = hashlib.sha256(b"").hexdigest()
_LINK_LIFE = timedelta(seconds=60)


class Checksums:
    """Asks for the checksums of objects.

    Mutable: `known`, whether this store is thought to have any: it is no S3, its keys are not at hand (those of a role
    are known to obstore alone), or it has said no.
    """

    def __init__(self, bucket: Bucket, session: aiohttp.ClientSession, *, answer_seconds: float) -> None:
        self._name = bucket.name
        self._objects = bucket.objects
        config = dict(bucket.objects.config) if isinstance(bucket.objects, S3Store) else {}
        self._access_key = str(config.get("access_key_id", ""))
        self._secret_key = Secret(str(config.get("secret_access_key", "")))
        self._token = Secret(str(config.get("session_token", "")))
        self._region = str(config.get("region", ""))
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)
        self.known = bool(self._access_key)

    async def ask(self, key: str) -> ReadBack | None:
        """Size and SHA-256 of the object under `key` by the store's word; None where it has no such word.

        Raises:
            FileNotFoundError: there is no such object.
            TransientError: the store did not answer.
        """
        assert isinstance(self._objects, S3Store)  # noqa: S101 - else none is `known`
        with bucket_errors(self._name):
            link = await obstore.sign_async(self._objects, "HEAD", key, _LINK_LIFE)
        url = URL(link.partition("?")[0], encoded=True)
        with http_errors(self._name):
            asking = self._session.head(url, headers=self._signed(url), allow_redirects=False, timeout=self._timeout)
            async with asking as response:
                status, told = response.status, response.headers.get(_HEADER, "")
                size = int(response.headers.get("Content-Length", -1))
        said = f"{self._name}: HTTP {status}"
        if status == 404:
            raise FileNotFoundError
        if status in (429, 503):
            raise Throttled(Reason.STORE_ERROR, said, http_status=status)
        if status == 408 or (status >= 500 and status not in (501, 505)):
            raise OriginError(Reason.STORE_ERROR, said, http_status=status)
        if status != 200:
            self.known = False
            return None
        digest = _decoded(told)
        return None if digest is None else ReadBack(size, digest.hex(), noted=True)

    def _signed(self, url: URL) -> Mapping[str, str]:
        """The headers of a HEAD of `url`, signed (AWS Signature Version 4)."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {
            "host": url.raw_authority,
            "x-amz-checksum-mode": "ENABLED",
            "x-amz-content-sha256": _NO_BODY,
            "x-amz-date": now,
        }
        if token := self._token.reveal():
            headers["x-amz-security-token"] = token
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = "\n".join(("HEAD", url.raw_path, "", lines, names, _NO_BODY))
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()))
        key = f"AWS4{self._secret_key.reveal()}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return headers


def _decoded(told: str) -> bytes | None:
    """A checksum of 32 bytes in base64; that of an object put in parts is one of their checksums, and none of bytes."""
    try:
        digest = base64.b64decode(told, validate=True)
    except ValueError:
        return None
    return digest if len(digest) == 32 else None
