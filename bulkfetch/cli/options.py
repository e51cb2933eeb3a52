"""The options that commands share. A flag that sets a configuration key takes its range and default from `config`."""

from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import click

from bulkfetch import config
from bulkfetch.cli.token_refusal import token_refusal
from bulkfetch.config import Config
from bulkfetch.errors import UsageError
from bulkfetch.models import Secret

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_FLAGS_SLOT = "bulkfetch.cli.flags"

_FILE_KEYS = ("source.format", "source.column", "source.encoding", "source.allow_empty")
_QUEUE_KEYS = ("source.until_empty", "source.idle")

# Key → (metavar, help); the order is that of --help.
_HELP: Mapping[str, tuple[str, str]] = {
    "destination.url": ("DEST", "Where the archive is: a directory, or s3://bucket/prefix (gs://, az://)."),
    "destination.key": ("TEMPLATE", "Key of an object below DEST, of {id}, {fields[NAME]} and {fields[NAME]:%Y/%m}."),
    "destination.share": ("", "Work beside other runs that were started with --share, and beside a queue's workers."),
    "destination.wait_lock": ("SECONDS", "Wait so long for another run that holds the archive."),
    "source.format": ("FORMAT", "How SOURCE is read: auto (by its name), txt, csv or jsonl."),
    "source.column": ("NAME", "The column or field that holds the invoice ID; without it, it is found by its name."),
    "source.encoding": ("NAME", "Encoding of SOURCE, such as windows-1252; auto takes UTF-8, and UTF-16."),
    "source.allow_empty": ("", "Take a SOURCE without a row for complete."),
    "source.expect": ("N", "The number of rows SOURCE must have; 0 takes any."),
    "source.limit": ("N", "Fetch at most N invoices, then end in order; what is stored already does not count."),
    "source.until_empty": ("", "End when the queue is empty and no worker has anything of it in hand."),
    "source.idle": ("SECONDS", "For how long it must have been so."),
    "api.url": ("URL", "The billing API."),
    "api.rate": ("N", "At most N links a second; 0 sets no fixed limit."),
    "api.link_seconds": ("N", "Life of a link that is asked for, in seconds."),
    "limits.workers": ("N", "Ask for or download at most N invoices at once."),
    "limits.max_size": ("SIZE", "Largest invoice that is accepted."),
    "limits.max_failed_ratio": ("RATIO", "Stop when more than this share of at least 200 invoices has failed."),
    "limits.max_duration": ("SECONDS", "End in order after so long; 0 sets no limit."),
    "limits.until": ("HH:MM", "End in order when the clock next shows this local time."),
    "retry.attempts": ("N", "Tries of one invoice, the first included."),
    "timeouts.drain": ("SECONDS", "Time that invoices in work get at a stop."),
    "service.health_addr": ("HOST:PORT", "Answer a supervisor's GET /livez and GET /readyz there."),
}


def config_flags(*keys: str) -> Callable[[Decorated], Decorated]:
    """Give a command `-c`, the refusal of `--token`, and a flag for each of the dotted `keys`.

    `configuration` reads them; the command's function does not get them as parameters.
    """
    options = [_config_flag(key, *_HELP[key]) for key in _HELP if key in keys]
    file = click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration file.  [default: bulkfetch.toml, if there is one]",
    )

    def decorate(function: Decorated) -> Decorated:
        # Decorators apply from the innermost outwards, and --help lists the outermost first.
        for option in (token_refusal, file, *reversed(options)):
            function = option(function)
        return function

    return decorate


def _config_flag(key: str, metavar: str, text: str) -> Callable[[Decorated], Decorated]:
    standard = config.default(key)
    if isinstance(standard, bool):
        # Given or not: what a file or the environment sets is not taken back by leaving it out.
        return click.option(
            config.flag_name(key),
            key.replace(".", "_"),
            is_flag=True,
            flag_value=True,
            default=None,
            help=text,
            expose_value=False,
            callback=lambda ctx, _, value: _remember(ctx, key, value and "true"),
        )
    shown = f"{standard:g}" if type(standard) is float else str(standard)
    return click.option(
        config.flag_name(key),
        key.replace(".", "_"),
        metavar=metavar,
        help=f"{text}  [default: {shown}]" if shown else text,
        expose_value=False,
        callback=lambda ctx, _, value: _remember(ctx, key, value),
    )


def _remember(ctx: click.Context, key: str, value: str | None) -> None:
    if value is not None:
        ctx.meta.setdefault(_FLAGS_SLOT, {})[key] = value


def configuration(ctx: click.Context, environ: Mapping[str, str], config_file: Path | None) -> Config:
    """The configuration in force for the command of `ctx`; only flags that were given override.

    Raises:
        UsageError: a name or a value is not allowed.
    """
    return config.load(config_file, environ, ctx.meta.get(_FLAGS_SLOT, {}))


def is_given(ctx: click.Context, key: str) -> bool:
    """Whether the command of `ctx` was given the flag that sets the dotted `key`."""
    return key in ctx.meta.get(_FLAGS_SLOT, {})


def refuse_without_effect(ctx: click.Context, source: str) -> None:
    """Let no flag pass that says nothing about `source`: who gave it expects something of it.

    Raises:
        UsageError: there is one; what a file or the environment sets may serve other sources.
    """
    queue = "://" in source
    for key in _FILE_KEYS if queue else _QUEUE_KEYS:
        if key in ctx.meta.get(_FLAGS_SLOT, {}):
            kind = "a queue" if queue else "a file"
            raise UsageError(f"{config.flag_name(key)} has no effect on {kind}; leave it out")


def destination(configured: Config) -> str:
    """The destination's URL.

    Raises:
        UsageError: none is set.
    """
    if not configured.destination.url:
        raise UsageError("no destination: give --to DEST, BULKFETCH_DESTINATION_URL, or url in [destination]")
    return configured.destination.url


def take_token(environ: MutableMapping[str, str]) -> Secret | None:
    """The token of `environ`, which loses it: no child process shall inherit it."""
    token = environ.pop(config.TOKEN_VARIABLE, "")
    return Secret(token) if token else None
