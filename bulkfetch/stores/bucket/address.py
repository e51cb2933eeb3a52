"""From a destination's URL, the settings and the environment to a bucket that can be talked to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from anyio import to_thread
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store, from_url

from bulkfetch.errors import UsageError
from bulkfetch.net.addresses import refuse_in_the_clear
from bulkfetch.net.egress import DIRECT, Egress
from bulkfetch.stores.bucket.aws_profile import profile
from bulkfetch.stores.bucket.client_options import client_options
from bulkfetch.stores.bucket.object_lock import LockSettings, Retention, RetentionRule
from bulkfetch.text import printable

if TYPE_CHECKING:  # obstore's typed dictionaries exist for type checkers only
    from obstore.store import ClientConfig, RetryConfig, S3Config

SCHEMES = ("s3", "gs", "az")
"""The kinds of bucket, as the scheme of a destination's URL."""

DEFAULT_REGION = "us-east-1"

# A deadline by size bounds each request; this only keeps obstore's own, of 30 s, from cutting a large one short.
_TIMEOUT = timedelta(hours=2)
# One retry loop in the program, and this is not it.
_RETRY: "RetryConfig" = {"max_retries": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings:
    """What the configuration says of a bucket, unchecked: each field is a key of `destination`.

    An empty `endpoint` or `region` is left to the environment.
    """

    url: str
    endpoint: str = ""
    region: str = ""
    path_style: bool = True
    lock: LockSettings = field(default_factory=LockSettings)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, or what is below a prefix of one. `name` is its URL, `objects` knows keys relative to it.

    `retention` is what a run asks for; None leaves objects to the bucket's own default. `egress` is the way to it.
    """

    name: str
    objects: "S3Store | GCSStore | AzureStore | MemoryStore" = field(repr=False)
    retention: RetentionRule | None = None
    egress: Egress = DIRECT

    def uri(self, key: str) -> str:
        """Where `key` is."""
        return f"{self.name}/{quote(key)}"

    def locking(self, retention: Retention) -> S3Store:
        """The same bucket, for puts only: each object is locked. It has connections of its own."""
        plain = self.objects
        assert isinstance(plain, S3Store)  # noqa: S101 - `connect` gives a rule to no other
        options: ClientConfig = {**(plain.client_options or {}), "default_headers": retention.headers()}
        prefix = None if plain.prefix is None else str(plain.prefix)
        return S3Store(prefix=prefix, config=plain.config, client_options=options, retry_config=plain.retry_config)

    def without_checksums(self) -> "S3Store | GCSStore | AzureStore | MemoryStore":
        """The same bucket, for puts that carry no checksum of their bytes where S3 has one."""
        plain = self.objects
        if not isinstance(plain, S3Store):
            return plain
        config: S3Config = {**plain.config}
        config.pop("checksum_algorithm", None)
        prefix = None if plain.prefix is None else str(plain.prefix)
        return S3Store(
            prefix=prefix, config=config, client_options=plain.client_options, retry_config=plain.retry_config
        )


async def connect(settings: BucketSettings, environ: Mapping[str, str], *, patience: timedelta = _TIMEOUT) -> Bucket:
    """The bucket that `settings.url` names; nothing is sent to it yet. `patience` bounds each request, body included.

    Of S3, keys, region and endpoint are taken from `environ` (the usual AWS_ variables, AWS_PROFILE included), then
    `settings` override them. The credentials of a container, a web identity or an instance, and all of GCS and Azure,
    are found by obstore itself, in the process's own environment.

    The way out is that of `environ` as well (`Egress.of`).

    Raises:
        UsageError: URL or settings cannot be used, or invoices would travel over plain HTTP to a public host.
        FatalError: the endpoint's host name does not resolve.
    """
    scheme, bucket, prefix = _parsed(settings.url)
    name = f"{scheme}://{bucket}/{prefix}".rstrip("/")
    retention = RetentionRule.parse(settings.lock, bucket)
    egress = await to_thread.run_sync(Egress.of, environ)
    try:
        if scheme == "s3":
            config = await to_thread.run_sync(_s3_config, bucket, settings, environ)
            endpoint = config.get("endpoint", "")
            await refuse_in_the_clear(endpoint, label="destination.endpoint", exposed="every invoice")
            host = endpoint or f"https://s3.{config.get('region')}.amazonaws.com"
            options = await to_thread.run_sync(client_options, egress, host, patience)
            objects = S3Store(prefix=prefix or None, config=config, client_options=options, retry_config=_RETRY)
            return Bucket(name, objects, retention, egress)
        if retention or settings.endpoint or settings.region:
            raise UsageError(f"{name}: destination.endpoint, region and lock_mode are for s3:// only")
        options = await to_thread.run_sync(client_options, egress, "", patience)
        store = from_url(name, client_options=options, retry_config=_RETRY)
    except (BaseError, ValueError):
        # The text may quote a value, and a value may be a secret.
        raise UsageError(f"{printable(name, 200)}: cannot be used with these settings and variables") from None
    assert isinstance(store, GCSStore | AzureStore)  # noqa: S101 - that is what the two schemes mean
    return Bucket(name, store, egress=egress)


def _parsed(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix."""
    parts = urlsplit(url)
    if parts.username is not None or parts.query or parts.fragment or not parts.netloc or parts.scheme not in SCHEMES:
        raise UsageError(
            "destination.url: a bucket is written s3://bucket/prefix (or gs://, az://), without credentials or query"
        )
    prefix = parts.path.strip("/")
    if {"", ".", ".."}.intersection(prefix.split("/")) and prefix:
        raise UsageError("destination.url: the prefix has an empty component, or one of dots")
    return parts.scheme, parts.netloc, prefix


def _s3_config(bucket: str, settings: BucketSettings, environ: Mapping[str, str]) -> "S3Config":
    own = {} if environ.get("AWS_ACCESS_KEY_ID") and not environ.get("AWS_PROFILE") else profile(environ)
    config: S3Config = {
        "bucket": bucket,
        # Checked by the store on arrival, and kept with the object.
        "checksum_algorithm": "SHA256",
        "conditional_put": "etag",
        "virtual_hosted_style_request": not settings.path_style,
        "region": settings.region
        or environ.get("AWS_REGION")
        or environ.get("AWS_DEFAULT_REGION")
        or own.get("region")
        or DEFAULT_REGION,
    }
    endpoint = (
        settings.endpoint
        or environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or own.get("endpoint_url", "")
    ).rstrip("/")
    if endpoint:
        scheme, _, host = endpoint.partition("://")
        config["endpoint"] = endpoint if settings.path_style else f"{scheme}://{bucket}.{host}"
    # Keys come from one place as a set: a token of another place would spoil them.
    keys = environ if environ.get("AWS_ACCESS_KEY_ID") else {key.upper(): value for key, value in own.items()}
    missing = [
        name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not (keys.get(name) or environ.get(name))
    ]
    if len(missing) == 1:
        raise UsageError(f"{missing[0]} is missing: give both halves of the access key, or neither")
    if keys.get("AWS_ACCESS_KEY_ID"):
        config["access_key_id"] = keys["AWS_ACCESS_KEY_ID"]
        config["secret_access_key"] = keys.get("AWS_SECRET_ACCESS_KEY", "")
        if token := keys.get("AWS_SESSION_TOKEN"):
            config["session_token"] = token
    return config
