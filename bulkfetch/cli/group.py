"""A group of commands: each is imported when it is called, and every error of every command ends here."""

import difflib
import gc
import importlib
import platform
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

import bulkfetch
from bulkfetch.cli.streams import lost_output, open_standard_streams
from bulkfetch.cli.system import insist_on_utf8, refused_by_system
from bulkfetch.errors import BulkfetchError, ExitCode, FatalError, TransientError, first_error
from bulkfetch.text import printable

GC_THRESHOLD = 20_000
"""How many objects may be made, less those freed, between two searches for garbage in cycles. Python: 700 or 2,000."""


class CommandGroup(click.Group):
    """A group whose commands are looked up in `table`: name → ("module:object", help in one line).

    A command may return its exit code. Every error of every command ends here, as one line on stderr and an exit code.
    """

    def __init__(self, name: str, table: Mapping[str, tuple[str, str]], **attrs: Any) -> None:
        super().__init__(name, **attrs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the table's order."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command, imported now."""
        if cmd_name not in self._table:
            close = difflib.get_close_matches(cmd_name, self._table, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(self._table)}."
            ctx.fail(f"No such command {cmd_name!r}; {hint}")
        module, _, attribute = self._table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - tells mypy what the table promises
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The list of commands, from the table: none is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._table.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line; this is where `--help` prints."""
        with _past_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command."""
        with _past_click():
            return super().invoke(ctx)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command line and exit."""
        code: int
        # Imports and jobs leave hardly a cycle behind, so looking for garbage in them often is work for nothing.
        gc.set_threshold(GC_THRESHOLD)
        insist_on_utf8()
        open_standard_streams()
        try:
            result = super().main(*args, **{**extra, "standalone_mode": False})
            code = result if isinstance(result, int) else ExitCode.COMPLETE
        except click.ClickException as error:
            error.show()
            code = ExitCode.USAGE
        except click.Abort:
            code = ExitCode.SIGINT
        except Exception as error:  # noqa: BLE001 - the one place where a bug becomes an exit code
            code = _reported(error)
        if lost := lost_output(sys.stdout):
            click.echo(f"bulkfetch: warning: not all output could be written to stdout: {lost}", err=True)
        sys.exit(code)


@contextmanager
def _past_click() -> Iterator[None]:
    # click ends the process in silence on every EPIPE, a socket's included; in a group it lets it pass.
    try:
        yield
    except OSError as error:
        raise ExceptionGroup("carried past click", [error]) from None


def _reported(error: Exception) -> int:
    """Say on stderr what `error` means to the user; the exit code for it."""
    error = first_error(error)
    if isinstance(error, BulkfetchError):
        click.echo(f"bulkfetch: error: {printable(str(error), limit=2000)}", err=True)
        if isinstance(error, TransientError):  # of a broker, before or after all invoices
            return ExitCode.STOPPED
        return error.exit_code if isinstance(error, FatalError) else ExitCode.BUG
    if refusal := refused_by_system(error):
        click.echo(f"bulkfetch: error: {refusal} (at {_place(error)})", err=True)
        return ExitCode.STOPPED
    # Not the exception's text: it may hold a link or the token.
    click.echo(f"bulkfetch: a bug in bulkfetch: {type(error).__name__} at {_place(error)}", err=True)
    click.echo(
        f"What is archived stays valid, and the same command goes on from there. Please report the line above with "
        f"bulkfetch {bulkfetch.__version__}, Python {platform.python_version()}, {platform.system()}.",
        err=True,
    )
    return ExitCode.BUG


def _place(error: BaseException) -> str:
    """The innermost line of bulkfetch that `error` came through, as file:line."""
    package = Path(bulkfetch.__file__).parent
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [(file.relative_to(package.parent), line) for file, line in frames if file.is_relative_to(package)]
    file, line = (ours or frames)[-1]
    return f"{file}:{line}"
