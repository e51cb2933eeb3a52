"""The command line as a process: what it imports, how it refuses, and how it ends when something breaks."""

import errno
import os
import subprocess
import sys
import types

import click
import pytest
from click.testing import CliRunner, Result

from bulkfetch.cli import main
from bulkfetch.cli.commands import COMMANDS
from bulkfetch.cli.group import CommandGroup
from bulkfetch.cli.options import config_flags, configuration, destination, take_token
from bulkfetch.cli.run import command as run_command
from bulkfetch.config import Config
from bulkfetch.errors import ArchiveLocked, FatalError, UsageError
from bulkfetch.models import Secret

HEAVY = {"aiohttp", "anyio", "rich", "sqlite3", "msgspec", "tenacity", "aiofiles"}


def bulkfetch(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The installed program, in an environment without settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BULKFETCH_")}
    return subprocess.run(
        [sys.executable, "-m", "bulkfetch", *args], capture_output=True, text=True, timeout=30, env=clean | environ
    )


@pytest.fixture
def group(monkeypatch):
    """Makes a program of the given commands, each ending as its function does."""

    def make(**functions) -> CommandGroup:
        module = types.ModuleType("frame_commands")
        for name, function in functions.items():
            setattr(module, name, click.command(name)(function))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return CommandGroup("prog", {name: (f"frame_commands:{name}", "A command.") for name in functions})

    return make


def raising(error: Exception):
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--version"]])
def test_help_imports_nothing_heavy(args):
    """`bulkfetch --help` needs click and the standard library only, so it answers at once."""
    script = (
        f"import sys\nsys.argv = ['bulkfetch', *{args!r}]\nfrom bulkfetch.cli import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert done.stdout.startswith(("Usage: bulkfetch", "bulkfetch 0."))
    assert {name.partition(".")[0] for name in done.stderr.split()} & HEAVY == set()


def test_help_lists_the_commands():
    """Each command is listed with its line."""
    shown = bulkfetch("--help").stdout
    for name, (_, line) in COMMANDS.items():
        assert f"  {name}" in shown
        assert line in shown


@pytest.mark.parametrize("name", ["run", "plan", "check"])
def test_help_of_a_command_imports_no_network(name):
    """`bulkfetch run --help` opens nothing and shows the defaults that are in force."""
    done = bulkfetch(name, "-h")
    assert done.returncode == 0
    assert "--config FILE" in done.stdout
    assert f"[default: {Config().api.url}]" in done.stdout or name == "plan"
    assert "--token" not in done.stdout


def test_run_has_the_flags_scripts_rely_on():
    """The flags of `run` are a contract."""
    flags = {flag for option in run_command.params for flag in option.opts}
    assert flags >= {
        "--to", "--api-url", "--workers", "--rate", "--attempts", "--link-seconds", "--max-size", "--max-failed-ratio",
        "--key", "--column", "--format", "--drain", "--expect", "--json", "-q", "--quiet", "-v", "--verbose",
        "--log-format", "-c", "--config",
    }  # fmt: skip


@pytest.mark.parametrize(
    "args",
    [
        ["--token", "eyJCANARY", "run", "ids.txt"],
        ["run", "ids.txt", "--to", "x", "--token", "eyJCANARY"],
        ["run", "--token=eyJCANARY"],
        ["check", "--token", "eyJCANARY"],
        ["run", "ids.txt", "--token"],
    ],
)
def test_a_token_on_the_command_line_is_refused(args):
    """--token names the places where a token belongs, ends with 2, and does not repeat the value."""
    done = bulkfetch(*args)
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("BULKFETCH_TOKEN", "api.token_file", "api.token_command"))
    assert "CANARY" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rnu"], "did you mean run?"),
        (["run"], "SOURCE"),
        (["run", "ids.txt", "--no-such-flag"], "--no-such-flag"),
        (["run", "ids.txt"], "--to DEST"),
        (["run", "ids.txt", "--to", "x", "--workers", "many"], "bulkfetch: error: --workers must be a whole number"),
        (["run", "ids.txt", "--to", "x", "-c", "no\x1bwhere.toml"], "no\\u001bwhere.toml: cannot be read"),
    ],
)
def test_errors_of_usage_end_with_2(args, words):
    """What is wrong with the command line is said on stderr, safely; stdout stays empty."""
    done = bulkfetch(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_wrong_variable_ends_with_2():
    """The environment is checked like the command line."""
    done = bulkfetch("run", "ids.txt", "--to", "x", BULKFETCH_LIMITS_WORKERS="0")
    assert done.returncode == 2
    assert done.stderr.startswith("bulkfetch: error: BULKFETCH_LIMITS_WORKERS must be")


def invoked(program: click.Command, *args: str) -> Result:
    return CliRunner().invoke(program, args, env={"BULKFETCH_API_RATE": "7"})


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("a"), 2), (FatalError("a"), 5), (ArchiveLocked("a"), 7), (ExceptionGroup("g", [FatalError("a")]), 5)],
)
def test_an_error_on_purpose_is_one_line_and_its_exit_code(group, error, code):
    """Each disposition has its exit code, inside an exception group as well."""
    result = invoked(group(boom=raising(error)), "boom")
    assert (result.exit_code, result.stderr) == (code, "bulkfetch: error: a\n")


def test_a_bug_names_its_place_and_not_its_text(group):
    """The text of an unexpected exception may hold a link: it is not shown, nor is a traceback."""
    result = invoked(group(boom=raising(ValueError("https://files.example/x?sig=CANARY"))), "boom")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith("bulkfetch: a bug in bulkfetch: ValueError at ")
    assert first.partition(" at ")[2].rpartition(":")[2].isdigit()
    assert "Please report" in second
    assert "CANARY" not in result.output


def test_a_closed_socket_is_not_taken_for_a_closed_pipe(group):
    """A BrokenPipeError from elsewhere than stdout is a bug, and does not end silently."""
    result = invoked(group(boom=raising(BrokenPipeError(errno.EPIPE, "a socket"))), "boom")
    assert result.exit_code == 1
    assert "BrokenPipeError" in result.stderr


def test_an_interrupt_ends_with_130(group):
    """Ctrl-C before a run took the signals over."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    assert invoked(group(boom=interrupted), "boom").exit_code == 130


def test_a_command_returns_its_exit_code(group):
    """What a command returns is how the process ends; nothing is success."""
    program = group(four=lambda: 4, none=lambda: None)
    assert invoked(program, "four").exit_code == 4
    assert invoked(program, "none").exit_code == 0


def test_a_reader_that_leaves_gets_no_traceback():
    """`bulkfetch --help | head -0` ends well: who reads no further wants no more."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "bulkfetch", "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=30
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_flags_override_and_those_left_out_do_not(tmp_path):
    """A command sees flag over environment over file over default."""
    file = tmp_path / "c.toml"
    file.write_text("[limits]\nworkers = 2\n[api]\nrate = 3\n[retry]\nattempts = 9\n")
    seen: list[Config] = []

    @click.command()
    @config_flags("limits.workers", "api.rate", "retry.attempts", "limits.max_size")
    @click.pass_context
    def probe(ctx, config_file) -> None:
        seen.append(configuration(ctx, {"BULKFETCH_API_RATE": "7"}, config_file))

    invoked(probe, "-c", str(file), "--workers", "4", "--max-size", "2 GB")
    assert (seen[0].limits.workers, seen[0].api.rate, seen[0].retry.attempts) == (4, 7.0, 9)
    assert seen[0].limits.max_size == 2 * 10**9
    assert seen[0].timeouts == Config().timeouts


def test_the_token_leaves_the_environment():
    """No child process inherits the token, and it shows itself nowhere."""
    environ = {"BULKFETCH_TOKEN": "eyJCANARY", "PATH": "/bin"}
    token = take_token(environ)
    assert token == Secret("eyJCANARY")
    assert "CANARY" not in f"{token!r} {token}"
    assert environ == {"PATH": "/bin"}
    assert take_token(environ) is None


def test_a_run_without_destination_is_refused():
    """There is no default destination: the message names the three ways to give one."""
    with pytest.raises(UsageError, match=r"--to DEST, BULKFETCH_DESTINATION_URL, or url in \[destination\]"):
        destination(Config())


def test_every_command_that_takes_settings_refuses_the_token():
    """The hidden --token is on the group and on each command with settings."""
    assert any("--token" in option.opts for option in main.params)
    for name in ("run", "plan", "check"):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert any("--token" in option.opts for option in command.params)
