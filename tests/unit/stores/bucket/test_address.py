"""From a destination and the environment to a bucket: what wins, what is refused, and that no secret shows."""

from pathlib import Path

import pytest

from bulkfetch.errors import FatalError, UsageError
from bulkfetch.stores.bucket.address import BucketSettings, connect
from bulkfetch.stores.bucket.object_lock import LockSettings

pytestmark = pytest.mark.anyio

KEYS = {"AWS_ACCESS_KEY_ID": "AKIA-ENV", "AWS_SECRET_ACCESS_KEY": "secret-env"}
CREDENTIALS = """\
[default]
aws_access_key_id = AKIA-DEFAULT
aws_secret_access_key = secret-default
[work]
aws_access_key_id = AKIA-WORK
aws_secret_access_key = secret-work%1
aws_session_token = token-work
"""
CONFIG = """\
[default]
region = eu-north-1
[profile work]
region = eu-west-1
endpoint_url = https://s3.example.com/
[profile sso]
sso_session = corp
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with AWS configuration files."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(CREDENTIALS)
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    return {"HOME": str(tmp_path)}


async def config_of(environ: dict[str, str], **settings) -> dict[str, object]:
    bucket = await connect(BucketSettings(**{"url": "s3://archive/in", **settings}), environ)
    return dict(bucket.objects.config)


@pytest.mark.parametrize(
    ("url", "name", "uri"),
    [
        ("s3://archive", "s3://archive", "s3://archive/a%20b.pdf"),
        ("s3://archive/", "s3://archive", "s3://archive/a%20b.pdf"),
        ("s3://archive/2024/in/", "s3://archive/2024/in", "s3://archive/2024/in/a%20b.pdf"),
    ],
)
async def test_names_and_uris(home, url, name, uri) -> None:
    """A bucket's name is its URL without a slash at the end; a URI has the key encoded behind it."""
    bucket = await connect(BucketSettings(url=url), home)
    assert (bucket.name, bucket.uri("a b.pdf")) == (name, uri)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///prefix", "s3://key:secret@bucket/x", "s3://b/a//c", "s3://b/../c", "s3://b?region=x", "ftp://b"],
)
async def test_urls_that_are_no_bucket(home, url) -> None:
    """A URL with credentials, a query, dots or no bucket is refused, and not repeated."""
    with pytest.raises(UsageError) as caught:
        await connect(BucketSettings(url=url), home)
    assert "secret" not in str(caught.value)


async def test_keys_of_the_environment_win(home) -> None:
    """Keys in the environment are taken as a set: no token of a profile comes along."""
    config = await config_of(home | KEYS | {"AWS_PROFILE": "work"})
    assert (config["access_key_id"], config["secret_access_key"]) == ("AKIA-ENV", "secret-env")
    assert "session_token" not in config


async def test_keys_of_a_profile(home) -> None:
    """A profile brings keys, token, region and endpoint from both files; without a name it is the default one."""
    config = await config_of(home | {"AWS_PROFILE": "work"})
    assert (config["access_key_id"], config["secret_access_key"]) == ("AKIA-WORK", "secret-work%1")
    assert (config["session_token"], config["region"]) == ("token-work", "eu-west-1")
    assert config["endpoint"] == "https://s3.example.com"

    config = await config_of(home)
    assert (config["access_key_id"], config["region"]) == ("AKIA-DEFAULT", "eu-north-1")


@pytest.mark.parametrize(
    ("environ", "says"),
    [({"AWS_PROFILE": "absent"}, "no profile absent"), ({"AWS_PROFILE": "sso"}, "holds no static keys")],
)
async def test_profiles_that_cannot_be_used(home, environ, says) -> None:
    """A profile that is not there, or that needs a log-in, is an error that names it."""
    with pytest.raises(UsageError, match=says):
        await config_of(home | environ)


async def test_a_damaged_credentials_file_is_not_quoted(tmp_path) -> None:
    """A file that is no configuration is named, without the line in which a key may stand."""
    file = tmp_path / "credentials"
    file.write_text("aws_secret_access_key = hidden\n")
    with pytest.raises(UsageError, match="credentials") as caught:
        await config_of({"AWS_SHARED_CREDENTIALS_FILE": str(file), "HOME": str(tmp_path)})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "settings", "region", "endpoint"),
    [
        ({}, {}, "us-east-1", None),
        ({"AWS_DEFAULT_REGION": "a"}, {}, "a", None),
        ({"AWS_DEFAULT_REGION": "a", "AWS_REGION": "b"}, {"region": "c"}, "c", None),
        ({"AWS_DEFAULT_REGION": "a", "AWS_REGION": "b"}, {}, "b", None),
        ({"AWS_ENDPOINT_URL": "https://one.example"}, {}, "us-east-1", "https://one.example"),
        (
            {"AWS_ENDPOINT_URL": "https://one.example", "AWS_ENDPOINT_URL_S3": "https://two.example"},
            {},
            "us-east-1",
            "https://two.example",
        ),
        (
            {"AWS_ENDPOINT_URL_S3": "https://two.example"},
            {"endpoint": "https://x.example"},
            "us-east-1",
            "https://x.example",
        ),
        ({}, {"endpoint": "https://x.example", "path_style": False}, "us-east-1", "https://archive.x.example"),
    ],
)
async def test_where_the_bucket_is(environ, settings, region, endpoint) -> None:
    """Settings win over the environment, the S3 variable over the general one; the host may carry the bucket's name."""
    config = await config_of(KEYS | environ, **settings)
    assert (config["region"], config.get("endpoint")) == (region, endpoint)
    assert config["virtual_hosted_style_request"] == ("true" if settings.get("path_style") is False else "false")


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "10.1.2.3", "[::1]:9000", "localhost:9000"])
async def test_plain_http_at_home(host) -> None:
    """Plain HTTP may be used to this machine and to private networks."""
    assert (await config_of(KEYS, endpoint=f"http://{host}"))["endpoint"] == f"http://{host}"


async def test_plain_http_to_the_world() -> None:
    """Plain HTTP to a public address is refused: every invoice would be readable on the way."""
    with pytest.raises(UsageError, match="plain http"):
        await config_of(KEYS, endpoint="http://8.8.8.8")


async def test_a_host_that_does_not_exist() -> None:
    """An endpoint whose name resolves to nothing is told at once."""
    with pytest.raises(FatalError, match="does not resolve"):
        await config_of(KEYS, endpoint="http://no-such-host.invalid")


async def test_no_secret_shows() -> None:
    """Neither key nor secret is in the repr of a bucket."""
    bucket = await connect(BucketSettings(url="s3://archive"), KEYS)
    assert "AKIA" not in repr(bucket)
    assert "secret" not in repr(bucket)


async def test_other_clouds_know_no_lock() -> None:
    """What only S3 has is refused for the others."""
    with pytest.raises(UsageError, match="for s3:// only"):
        await connect(BucketSettings(url="gs://archive", lock=LockSettings(mode="GOVERNANCE", days=1)), {})


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
async def test_half_of_a_pair_of_keys_is_called_missing(missing) -> None:
    """A key without its secret, or a secret without its key, is told by the name of what is missing."""
    environ = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s"}
    del environ[missing]
    with pytest.raises(UsageError, match=f"{missing} is missing"):
        await connect(BucketSettings(url="s3://archive"), environ)
