"""Where a setting comes from, which one wins, and what an unusable one is told."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import config
from bulkfetch.config import Config, Limits, Size
from bulkfetch.errors import UsageError

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
EMPTY = EXAMPLE
"""As it stands, for its keys are all commented out; naming a file keeps ./bulkfetch.toml out of a test."""


def write(folder: Path, text: str) -> Path:
    file = folder / "some.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o644)
    return file


def refused(file: Path | None = None, environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(UsageError) as caught:
        config.load(file, environ or {}, {key.replace("__", "."): value for key, value in flags.items()})
    return str(caught.value)


def test_nothing_given_is_every_default(tmp_path, monkeypatch):
    """Without file, variables and flags the configuration is `Config()`."""
    monkeypatch.chdir(tmp_path)
    assert config.load(None, {"PATH": "/bin"}, {}) == Config()


def test_the_example_uncommented_is_every_default(tmp_path):
    """config.example.toml shows each key at its default: uncommented, it loads as `Config()`."""
    lines = EXAMPLE.read_text("utf-8").splitlines()
    text = "\n".join(line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in lines)
    assert config.load(write(tmp_path, text), {}, {}) == Config()


def test_the_example_names_every_key():
    """Each key of `Config` stands in config.example.toml, below its section, under one line that explains it."""
    section, previous, found = "", "", []
    for line in EXAMPLE.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.startswith("#") and not line.startswith("# "):
            found.append(f"{section}.{line[1:].partition(' = ')[0]}")
            assert previous.startswith("# "), f"{found[-1]} has no explanation"
        previous = line
    assert found == list(config.KEYS)


def test_flag_over_environment_over_file_over_default(tmp_path):
    """Each layer overrides only what it names."""
    file = write(tmp_path, "[limits]\nworkers = 2\nmax_outage = 20\n[retry]\nattempts = 2\n[timeouts]\nidle = 2\n")
    environ = {"BULKFETCH_LIMITS_WORKERS": "3", "BULKFETCH_RETRY_ATTEMPTS": "3"}
    loaded = config.load(file, environ, {"limits.workers": "4"})
    assert (loaded.limits.workers, loaded.retry.attempts, loaded.timeouts.idle) == (4, 3, 2.0)
    assert loaded.limits.max_outage == 20.0
    assert loaded.api == Config().api


def test_the_default_file_is_read_if_there_is_one(tmp_path, monkeypatch):
    """./bulkfetch.toml counts where no file is named, and only there."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "[limits]\nworkers = 7\n").rename("bulkfetch.toml")
    assert config.load(None, {}, {}).limits.workers == 7
    assert config.load(write(tmp_path, ""), {}, {}).limits.workers == 32


def test_every_key_has_its_variable():
    """BULKFETCH_<SECTION>_<KEY> sets each key, from text."""
    for key in config.KEYS:
        variable = "BULKFETCH_" + key.replace(".", "_").upper()
        value = config.default(key)
        text = json.dumps(value) if isinstance(value, tuple) else str(value)
        assert config.load(EMPTY, {variable: text}, {}) == Config()
        assert variable in refused(EMPTY, {variable + "X": "1"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.example,b.example:8443", ("a.example", "b.example:8443")), ('[".example.com"]', (".example.com",))],
)
def test_a_list_in_the_environment(text, expected):
    """A list is a JSON array, or words between commas."""
    assert config.load(EMPTY, {"BULKFETCH_API_LINK_HOSTS": text}, {}).api.link_hosts == expected


def test_an_empty_variable_counts_as_absent(tmp_path):
    """A variable set to nothing does not override the file."""
    file = write(tmp_path, "[limits]\nworkers = 7\n")
    assert config.load(file, {"BULKFETCH_LIMITS_WORKERS": ""}, {}).limits.workers == 7


def test_the_token_variable_is_no_setting():
    """BULKFETCH_TOKEN is known, and not part of the configuration."""
    loaded = config.load(EMPTY, {"BULKFETCH_TOKEN": "eyJCANARY"}, {})
    assert loaded == Config()
    assert "eyJCANARY" not in repr(loaded)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limits]\nworker = 3\n", ["some.toml", "[limits]", "worker", "did you mean workers?"]),
        ("[limit]\nworkers = 3\n", ["some.toml", "[limit]", "did you mean limits?"]),
        ("[zzz]\n", ["[zzz]", "known are api, source"]),
        ("limits = 3\n", ["some.toml", "limits must be a section"]),
        ("[limits]\nworkers = 0\n", ["some.toml: [limits] workers", "1 or more and at most 1024"]),
        ('[limits]\nworkers = "3"\n', ["some.toml: [limits] workers", "a whole number"]),
        ("[limits]\nworkers = true\n", ["some.toml: [limits] workers", "a whole number"]),
        ("[limits]\nmax_size = 0\n", ["some.toml: [limits] max_size", "100 MiB"]),
        ('[source]\nformat = "xls"\n', ["some.toml: [source] format", "one of auto, csv, jsonl, txt"]),
        ("[timeouts]\nidle = nan\n", ["[timeouts] idle", "a number, above 0"]),
        ("[timeouts]\ndrain = nan\n", ["[timeouts] drain", "a number, 0 or more"]),
        ("[timeouts]\nidle = inf\n", ["[timeouts] idle", "at most 604800"]),
        ('[api]\ntoken_command = "cat token"\n', ["[api] token_command", "a list, each item text"]),
        ('[api]\nlink_hosts = ["https://x"]\n', ["[api] link_hosts", "host:port"]),
        ('[destination]\nkey = ""\n', ["[destination] key", "not empty"]),
        ("[limits]\nworkers = \n", ["some.toml", "line 2"]),
        ("[api]\n[api]\n", ["some.toml", "line 2"]),
    ],
)
def test_a_file_that_is_refused_names_place_and_remedy(tmp_path, text, words):
    """The message names the file, the key and what is allowed, or the nearest name that is known."""
    message = refused(write(tmp_path, text))
    assert [word for word in words if word not in message] == []


def test_a_file_that_cannot_be_read(tmp_path):
    """A file that is missing, a folder or not UTF-8 is an error of usage."""
    assert "nowhere.toml: cannot be read" in refused(tmp_path / "nowhere.toml")
    assert "cannot be read" in refused(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[destination]\nurl = "\xe9"\n')
    assert "latin.toml: not UTF-8 at byte" in refused(latin)


def test_a_file_anyone_may_write_is_refused(tmp_path):
    """Who writes the file picks the command that is run and the host that gets the token."""
    file = write(tmp_path, "")
    file.chmod(0o666)
    assert "chmod o-w" in refused(file)


@pytest.mark.parametrize("text", ['token = "eyJCANARY"\n', '[api]\ntoken = "eyJCANARY"\n'])
def test_a_token_in_the_file_is_refused_and_not_repeated(tmp_path, text):
    """The token belongs elsewhere: the message says where, and does not hold it."""
    message = refused(write(tmp_path, text))
    assert "token_file" in message
    assert "token_command" in message
    assert "BULKFETCH_TOKEN" in message
    assert "CANARY" not in message


def test_an_unknown_variable_is_refused():
    """A misspelt BULKFETCH_ variable is named, with the nearest known one."""
    message = refused(EMPTY, {"BULKFETCH_LIMIT_WORKERS": "3"})
    assert "BULKFETCH_LIMIT_WORKERS; did you mean BULKFETCH_LIMITS_WORKERS?" in message
    assert "CANARY" not in refused(EMPTY, {"BULKFETCH_API_TOKEN": "eyJCANARY"})


def test_a_bad_value_names_the_variable_or_the_flag():
    """The place in the message is the one that won."""
    environ = {"BULKFETCH_LIMITS_WORKERS": "many"}
    assert refused(EMPTY, environ).startswith("BULKFETCH_LIMITS_WORKERS must be a whole number")
    assert refused(EMPTY, environ, limits__workers="0").startswith("--workers must be a whole number")
    assert refused(EMPTY, api__url="x").startswith("--api-url must be an http")
    assert refused(EMPTY, limits__max_failed_ratio="2").startswith("--max-failed-ratio must be a number")


@pytest.mark.parametrize(
    "url", ["https://coreapi.io", "http://127.0.0.1:8080/v1/", "HTTPS://[::1]:8443", "http://x/a%20b"]
)
def test_api_urls_that_are_taken(url):
    """The API's URL is http or https with a host, maybe a port and a path."""
    assert config.load(EMPTY, {}, {"api.url": url}).api.url == url


@pytest.mark.parametrize(
    "url",
    [
        "https://x:65536/",
        "", "coreapi.io", "ftp://x", "https://", "https:///v1", "https://user:eyJCANARY@x/", "https://x?a=b", "https://x/#f",
        "https://x:port/", "https://x y/", "https://x/\n", "https://good\\@evil/", "https://x/a?", " https://x",
    ],
)  # fmt: skip
def test_api_urls_that_are_refused(url):
    """No user name, query or fragment; and the message does not repeat what may hold a password."""
    message = refused(EMPTY, api__url=url)
    assert "--api-url must be" in message
    assert "CANARY" not in message


@pytest.mark.parametrize("addr", ["", "127.0.0.1:8080", "0.0.0.0:1", "localhost:65535", "[::1]:8080", "a-b.example:80"])
def test_health_addresses_that_are_taken(addr):
    """Host and port, an IPv6 address in brackets as in a URL; or nothing."""
    assert config.load(EMPTY, {}, {"service.health_addr": addr}).service.health_addr == addr


@pytest.mark.parametrize(
    "addr",
    [
        "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:99999", "::1:8080",
        "http://127.0.0.1:8080", "127.0.0.1:8080/livez", "127.0.0.1:8080\n", " 127.0.0.1:8080", "a b:80", "..:80",
    ],
)  # fmt: skip
def test_health_addresses_that_are_refused(addr):
    """The message names the flag and shows the form."""
    assert "--health-addr must be host:port, such as 127.0.0.1:8080" in refused(EMPTY, service__health_addr=addr)


def test_a_token_has_one_source(tmp_path):
    """token_file and token_command exclude each other, wherever they were set; both places are named."""
    file = write(tmp_path, '[api]\ntoken_file = "/run/token"\n')
    message = refused(file, {"BULKFETCH_API_TOKEN_COMMAND": "get-token"})
    assert "[api] token_file" in message
    assert "BULKFETCH_API_TOKEN_COMMAND" in message


def test_the_first_wait_is_within_the_longest():
    """wait_initial above wait_max is refused, at the place where it was set."""
    assert refused(EMPTY, {"BULKFETCH_RETRY_WAIT_MAX": "0.1"}).startswith("BULKFETCH_RETRY_WAIT_MAX")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("100 MiB", 104_857_600), ("2GB", 2 * 10**9), ("3 kib", 3072), ("7 B", 7), ("1 TiB", 2**40)],
)
def test_sizes(text, size):
    """A size is a number of bytes, or has a decimal or binary unit."""
    assert Size.parse(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5 MiB", "MiB", "1 PiB", "1 M", "1  MiB", "1 MiB\n", True, 1.5, None]
)
def test_what_is_no_size(text):
    """Zero, fractions, unknown units and other types are refused."""
    with pytest.raises(ValueError, match="size"):
        Size.parse(text)


@given(st.integers(min_value=1, max_value=2**50))
def test_a_size_reads_back_as_it_is_shown(number):
    """The text of a size names exactly its bytes."""
    assert Size.parse(str(Size(number))) == number


def test_the_configuration_cannot_change():
    """Sections are frozen, and take no unknown key."""
    with pytest.raises(AttributeError):
        Config().limits.workers = 3
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"worker": 3}, Limits)
