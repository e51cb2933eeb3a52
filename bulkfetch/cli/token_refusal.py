"""Where a token does not belong: on the command line."""

import click

from bulkfetch.errors import UsageError


def _refuse_token(ctx: click.Context, param: click.Parameter, value: str | None) -> None:  # noqa: ARG001 - click's
    if value is not None:
        raise UsageError(
            "--token is refused: a command line is open to every user of the machine and stays in the shell's history. "
            "Use the variable BULKFETCH_TOKEN, or api.token_file or api.token_command in bulkfetch.toml"
        )


token_refusal = click.option(
    "--token", hidden=True, expose_value=False, is_eager=True, is_flag=False, flag_value="", callback=_refuse_token
)
"""A hidden `--token`, which only says where a token belongs; every command that needs one has it."""
