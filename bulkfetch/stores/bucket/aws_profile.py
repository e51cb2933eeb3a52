"""Static credentials and settings from the AWS configuration files, for whoever works with profiles."""

from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ParserError
from pathlib import Path

from bulkfetch.errors import UsageError
from bulkfetch.text import printable

_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region", "endpoint_url")


def profile(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The values of the profile that `environ` names, or of the default one; empty where there is none.

    Known are `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`, `region` and `endpoint_url`. The
    credentials file wins over the configuration file.

    Raises:
        UsageError: AWS_PROFILE names a profile that is not there or holds no static keys, or a file is unreadable.
    """
    named = environ.get("AWS_PROFILE", "")
    name = named or "default"
    home = Path(environ.get("HOME", "/")) / ".aws"
    config = _parsed(Path(environ.get("AWS_CONFIG_FILE") or home / "config"))
    credentials = _parsed(Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"))
    sections = (_section(config, name if name == "default" else f"profile {name}"), _section(credentials, name))
    found = {key: section[key] for section in sections for key in _KEYS if section.get(key)}
    if named and not any(sections):
        raise UsageError(f"AWS_PROFILE: there is no profile {printable(named, 80)} in the AWS configuration files")
    if named and "aws_access_key_id" not in found and not environ.get("AWS_ACCESS_KEY_ID"):
        raise UsageError(
            f"AWS_PROFILE: profile {printable(named, 80)} holds no static keys; for SSO and assumed roles run "
            "`aws configure export-credentials --format env` first"
        )
    return found


def _section(parser: ConfigParser, name: str) -> Mapping[str, str]:
    return dict(parser[name]) if parser.has_section(name) else {}


def _parsed(file: Path) -> ConfigParser:
    parser = ConfigParser(interpolation=None, default_section="\0")
    try:
        with file.open(encoding="utf-8") as stream:
            parser.read_file(stream)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except (ParserError, UnicodeDecodeError):
        # Either text would quote the line, which may hold the key.
        raise UsageError(f"{file}: is not a valid AWS configuration file") from None
    return parser
