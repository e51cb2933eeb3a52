"""The digests of a body that a server promises in header fields."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True, slots=True)
class PromisedDigest:
    """What the header `field` says the digest of the whole body is; `algorithm` is `sha-256` or `md5`."""

    field: str
    algorithm: str
    digest: bytes


_LENGTHS = {"sha-256": 32, "md5": 16}
_BARE = (("x-amz-checksum-sha256", "sha-256"), ("Content-MD5", "md5"))
_LISTS = ("Repr-Digest", "Content-Digest")


def promised_digests(response: aiohttp.ClientResponse) -> Sequence[PromisedDigest]:
    """The digests that can be compared with the body. Those in other algorithms, those of an upload's parts (S3:
    `…-3`) and those that are malformed are left out."""
    headers = response.headers
    named = [(field, algorithm, headers[field]) for field, algorithm in _BARE if field in headers]
    for field in _LISTS:
        if field in headers:
            for item in ",".join(headers.getall(field)).split(","):
                algorithm, _, value = item.strip().partition("=")
                named.append((field, algorithm, value.strip(":")))
    promises = [
        PromisedDigest(field, algorithm, digest)
        for field, algorithm, value in named
        if value and len(digest := _decoded(value)) == _LENGTHS.get(algorithm)
    ]
    tag = _s3_md5(headers)
    return [*promises, PromisedDigest("ETag", "md5", tag)] if tag else promises


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return b""


def _s3_md5(headers: Mapping[str, str]) -> bytes | None:
    """The MD5 in the ETag; None if the ETag is not one. On S3 it is, for objects that were uploaded in one part without
    KMS or customer keys (AWS: Common response headers). Elsewhere 32 hex digits may mean anything."""
    if "x-amz-request-id" not in headers:
        return None
    tag = headers.get("ETag", "").strip('"')
    is_md5 = (
        headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
        and "x-amz-server-side-encryption-customer-algorithm" not in headers
        and re.fullmatch(r"[0-9a-fA-F]{32}", tag)
    )
    return bytes.fromhex(tag) if is_md5 else None
