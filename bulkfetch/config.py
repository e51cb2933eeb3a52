"""Configuration: every key, its unit, its range and its default, once; and where a value may come from."""

import difflib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, inspect

from bulkfetch.errors import UsageError

DEFAULT_FILE = Path("bulkfetch.toml")
ENVIRON_PREFIX = "BULKFETCH_"
TOKEN_VARIABLE = "BULKFETCH_TOKEN"  # noqa: S105 - the variable's name
TOKEN_HINT = f"put the token into {TOKEN_VARIABLE}, or name its source with api.token_file or api.token_command"

_SIZE_UNITS = {"": 1, "b": 1} | {
    prefix + unit: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("ib", 1024))
}


class Size(int):
    """A number of bytes, of one byte or more."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """A size from a whole number of bytes or from text: "100 MiB", "2 GB", "65536".

        Raises:
            ValueError: it is neither, or below one byte.
        """
        match = re.fullmatch(r"([0-9]{1,18}) ?([A-Za-z]*)", str(value), re.ASCII)
        scale = _SIZE_UNITS.get(match[2].lower()) if match else None
        if match is None or scale is None or int(match[1]) < 1:
            raise ValueError("not a size")
        return cls(int(match[1]) * scale)

    def __str__(self) -> str:
        for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
            if self % 1024**power == 0:
                return f"{int(self) // 1024**power} {unit}"
        return repr(self)


_WEEK = 604_800
_HOST = r"(\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"

Duration = Annotated[float, Meta(gt=0, le=_WEEK)]
DurationOrNone = Annotated[float, Meta(ge=0, le=_WEEK)]
_URL = r"(?i:https?)://([^\s/?#@:\\\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#]*)?"
_URL_WORDS = {"allowed": "an http:// or https:// URL with a host, without user name, query or fragment"}

Url = Annotated[str, Meta(pattern=rf"\A{_URL}\Z", extra=_URL_WORDS)]
UrlOrNone = Annotated[str, Meta(pattern=rf"\A({_URL})?\Z", extra=_URL_WORDS)]
ProxyOrNone = Annotated[
    str,
    Meta(
        pattern=r"\A((?i:http)://([^\s/?#@:\\\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/?)?\Z",
        extra={"allowed": "a proxy as http://host:port; a user name and a password go into HTTPS_PROXY instead"},
    ),
]
Host = Annotated[
    str, Meta(pattern=rf"\A{_HOST}\Z", extra={"allowed": "a host, host:port, or a suffix such as .example.com"})
]


_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
AddressOrNone = Annotated[
    str,
    Meta(
        pattern=rf"\A(([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]):{_PORT})?\Z",
        extra={"allowed": "host:port, such as 127.0.0.1:8080 or [::1]:8080"},
    ),
]


TimeOfDayOrNone = Annotated[
    str,
    Meta(
        pattern=r"\A(([01][0-9]|2[0-3]):[0-5][0-9])?\Z",
        extra={"allowed": "a time of day as HH:MM, such as 06:00"},
    ),
]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the configuration file. "", [] and 0 mean "not set", for TOML has no null."""


class Api(Section, frozen=True, kw_only=True):
    """The billing API: `rate` in links a second, `link_seconds` the life a link is asked for."""

    url: Url = "https://coreapi.io"
    token_file: str = ""
    token_command: tuple[str, ...] = ()
    link_seconds: Annotated[int, Meta(ge=5, le=_WEEK)] = 600
    rate: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    link_hosts: tuple[Host, ...] = ()
    proxy: ProxyOrNone = ""
    ca_file: str = ""


class SourceConfig(Section, frozen=True, kw_only=True):
    """The input: how it is read, how many rows it must have, how many of them are fetched at most, and when a queue is
    done with; `idle` in seconds."""

    format: Literal["auto", "txt", "csv", "jsonl"] = "auto"
    column: str = ""
    encoding: str = "auto"
    id_at: tuple[str, ...] = ()
    date_format: str = ""
    allow_empty: bool = False
    expect: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=0)] = 0
    until_empty: bool = False
    idle: DurationOrNone = 10.0


class Destination(Section, frozen=True, kw_only=True):
    """The archive: where it is, who may be at work on it (`wait_lock` in seconds), the template of an object's key, and
    how a bucket is reached and locked."""

    url: str = ""
    key: Annotated[str, Meta(min_length=1)] = "{id}.pdf"
    share: bool = False
    wait_lock: DurationOrNone = 0.0
    ignore: tuple[str, ...] = ("lost+found/",)
    endpoint: UrlOrNone = ""
    region: str = ""
    path_style: bool = True
    lock_mode: Literal["", "GOVERNANCE", "COMPLIANCE"] = ""
    lock_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    lock_column: str = ""
    lock_years: Annotated[int, Meta(ge=0, le=100)] = 0
    lock_confirm: str = ""


class Limits(Section, frozen=True, kw_only=True):
    """What bounds a run: sizes (`max_size`, `quarantine`) in bytes, `max_outage` and `max_duration` in seconds,
    `max_failed_ratio` a share of 1, `until` a local time."""

    workers: Annotated[int, Meta(ge=1, le=1024)] = 32
    max_size: Size = Size(100 * 1024**2)
    max_outage: Duration = 900.0
    max_failed_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.5
    max_duration: DurationOrNone = 0.0
    until: TimeOfDayOrNone = ""
    quarantine: Size = Size(1024**3)


class Retry(Section, frozen=True, kw_only=True):
    """How often and for how long one invoice is tried; seconds."""

    attempts: Annotated[int, Meta(ge=1, le=100)] = 5
    wait_initial: Duration = 0.5
    wait_max: Duration = 30.0
    timeout: DurationOrNone = 1800.0


class Timeouts(Section, frozen=True, kw_only=True):
    """How long to wait for the network, and for work in hand at a stop; seconds, `min_speed` in bytes a second."""

    connect: Duration = 10.0
    first_byte: Duration = 30.0
    idle: Duration = 30.0
    total: Duration = 300.0
    min_speed: Annotated[int, Meta(ge=0)] = 1024
    drain: DurationOrNone = 20.0


class Service(Section, frozen=True, kw_only=True):
    """The run as a service: where a supervisor can ask how it is."""

    health_addr: AddressOrNone = ""


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration; `Config()` is every default."""

    api: Api = Api()
    source: SourceConfig = SourceConfig()
    destination: Destination = Destination()
    limits: Limits = Limits()
    retry: Retry = Retry()
    timeouts: Timeouts = Timeouts()
    service: Service = Service()


_SECTIONS: Mapping[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Config)}
_TYPES: Mapping[str, Any] = {
    f"{section}.{field.name}": field.type
    for section, struct in _SECTIONS.items()
    for field in msgspec.structs.fields(struct)
}
KEYS: Sequence[str] = tuple(_TYPES)
"""Every key, dotted: "limits.workers"."""

_VARIABLES: Mapping[str, str] = {ENVIRON_PREFIX + key.replace(".", "_").upper(): key for key in KEYS}
_FLAGS: Mapping[str, str] = {"destination.url": "--to", "api.url": "--api-url"}


def default(key: str) -> object:
    """The default of the dotted `key`."""
    section, _, name = key.partition(".")
    return getattr(getattr(Config(), section), name)


def flag_name(key: str) -> str:
    """The command line flag of the dotted `key`, for those that have one."""
    return _FLAGS.get(key) or "--" + key.partition(".")[2].replace("_", "-")


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as someone gave it; `place` is what an error message calls its origin."""

    value: object
    place: str
    from_text: bool


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The configuration in force: a flag wins over the environment, that over the file, that over the default.

    `file` is ./bulkfetch.toml, if that exists, where None. An empty environment variable counts as absent. `flags`
    maps dotted keys to values.

    Raises:
        UsageError: a name is unknown, or a value not allowed; it says where, and what is, but not the value.
    """
    if file is None and DEFAULT_FILE.is_file():
        file = DEFAULT_FILE
    given = dict(_from_file(file)) if file else {}
    given.update(_from_environ(environ))
    given.update((key, _Given(value, flag_name(key), from_text=True)) for key, value in flags.items())
    values: dict[str, dict[str, object]] = {section: {} for section in _SECTIONS}
    for key, item in given.items():
        section, _, name = key.partition(".")
        values[section][name] = _converted(key, item)
    config = Config(**{section: struct(**values[section]) for section, struct in _SECTIONS.items()})
    _check_together(config, given)
    return config


def _from_file(file: Path) -> Iterator[tuple[str, _Given]]:
    for section, table in _parsed(file).items():
        if section == "token":
            raise UsageError(f"{file}: a token does not belong in this file: {TOKEN_HINT}")
        if section not in _SECTIONS:
            raise UsageError(f"{file}: unknown section [{section}]; {_nearest(section, _SECTIONS)}")
        if not isinstance(table, dict):
            raise UsageError(f"{file}: {section} must be a section, written [{section}]")
        names = _SECTIONS[section].__struct_fields__
        for name, value in table.items():
            if name == "token":
                raise UsageError(f"{file}: [{section}] token does not belong in this file: {TOKEN_HINT}")
            if name not in names:
                raise UsageError(f"{file}: [{section}] has no key {name}; {_nearest(name, names)}")
            yield f"{section}.{name}", _Given(value, f"{file}: [{section}] {name}", from_text=False)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            # The file may name a command to run and the host that gets the token: only its owner may write it.
            if os.name == "posix" and os.fstat(stream.fileno()).st_mode & stat.S_IWOTH:
                raise UsageError(f"{file}: anyone may write this file; take that right away with chmod o-w")
            return tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 at byte {error.start}") from None


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    for variable, text in environ.items():
        if not variable.startswith(ENVIRON_PREFIX) or variable == TOKEN_VARIABLE:
            continue
        if variable not in _VARIABLES:
            raise UsageError(
                f"unknown environment variable {variable}; {_nearest(variable, [*_VARIABLES, TOKEN_VARIABLE])}"
            )
        if text:
            key = _VARIABLES[variable]
            value = _listed(text) if isinstance(default(key), tuple) else text
            yield key, _Given(value, variable, from_text=True)


def _listed(text: str) -> object:
    """A list given as text: a JSON array, or words between commas."""
    if not text.lstrip().startswith("["):
        return [word.strip() for word in text.split(",")]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def _converted(key: str, item: _Given) -> object:
    try:
        return msgspec.convert(item.value, _TYPES[key], strict=not item.from_text, dec_hook=_decode_size)
    except msgspec.ValidationError:
        raise UsageError(f"{item.place} must be {_allowed(inspect.type_info(_TYPES[key]))}") from None


def _decode_size(_: type, value: object) -> Size:
    return Size.parse(value)


def _allowed(kind: inspect.Type) -> str:
    """What a value of `kind` may be, in words."""
    match kind:
        case inspect.Metadata(extra={"allowed": str() as allowed}):
            return allowed
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.IntType(ge=low, le=high):
            return "a whole number" + _range(f"{low} or more", high)
        case inspect.FloatType(gt=None, ge=low, le=high):
            return "a number" + _range(f"{low} or more", high)
        case inspect.FloatType(gt=low, le=high):
            return "a number" + _range(f"above {low}", high)
        case inspect.VarTupleType(item_type=item):
            return f"a list, each item {_allowed(item)}"
        case inspect.CustomType(cls=cls) if cls is Size:
            return 'a size: a whole number of bytes, or text such as "100 MiB" or "2 GB"'
        case inspect.StrType(min_length=int()):
            return "text, not empty"
        case _:
            return "text"


def _range(low: str, high: float | None) -> str:
    return f", {low}" if high is None else f", {low} and at most {high}"


def _check_together(config: Config, given: Mapping[str, _Given]) -> None:
    """What one value alone cannot tell.

    Raises:
        UsageError: two values contradict each other.
    """
    try:
        urlsplit(config.api.url).port  # noqa: B018 - asking is the test
    except ValueError:
        item = given.get("api.url")
        raise UsageError(f"{item.place if item else 'api.url'} must be a URL with a port of 65535 or less") from None
    if config.api.token_file and config.api.token_command:
        places = f"{given['api.token_file'].place} and {given['api.token_command'].place}"
        raise UsageError(f"{places} exclude each other: a token has one source")
    if config.retry.wait_initial > config.retry.wait_max:
        place = (given.get("retry.wait_initial") or given["retry.wait_max"]).place
        raise UsageError(f"{place}: retry.wait_initial must not be above retry.wait_max")
