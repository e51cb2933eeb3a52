"""The digests of a body that a server promises in header fields."""

import base64
from collections.abc import Sequence
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
_LISTS = ("Repr-Digest", "Content-Digest", "Digest")


def promised_digests(response: aiohttp.ClientResponse) -> Sequence[PromisedDigest]:
    """The digests that can be compared with the body.

    Those in other algorithms, those of an upload's parts (S3: `…-3`) and those that are malformed are left out. An ETag
    promises nothing: some stores put an MD5 there, and others 32 hex digits that look like one.
    """
    headers = response.headers
    named = [(field, algorithm, headers[field]) for field, algorithm in _BARE if field in headers]
    if headers.get("x-amz-checksum-type", "").upper() == "COMPOSITE":
        named = [promise for promise in named if promise[0] != "x-amz-checksum-sha256"]
    for field in _LISTS:
        if field in headers:
            for item in ",".join(headers.getall(field)).split(","):
                algorithm, _, value = item.strip().partition("=")
                named.append((field, algorithm.lower(), value.strip(":")))
    return [
        PromisedDigest(field, algorithm, digest)
        for field, algorithm, value in named
        if value and len(digest := _decoded(value)) == _LENGTHS.get(algorithm)
    ]


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return b""
