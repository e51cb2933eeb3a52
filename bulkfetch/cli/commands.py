"""The table of commands, and `main`. The table names modules and imports none, so `--help` stays quick."""

from collections.abc import Mapping

import click

import bulkfetch
from bulkfetch.cli.group import CommandGroup
from bulkfetch.cli.token_refusal import token_refusal

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("bulkfetch.cli.run:command", "Archive every invoice that SOURCE names."),
    "plan": ("bulkfetch.cli.plan:command", "Show what a run would do; calls nothing."),
    "status": ("bulkfetch.cli.status:command", "Show the last run, what is missing and since when."),
    "retry": ("bulkfetch.cli.retry:command", "Try what is unresolved again, from the manifests alone."),
    "accept": ("bulkfetch.cli.accept:command", "Record that invoices will not come, or take that back."),
    "verify": ("bulkfetch.cli.verify:command", "Read an archive back: missing, damaged, extra, and the chain."),
    "export": ("bulkfetch.cli.export:command", "Write what an archive holds: .csv, .jsonl, or a BagIt bag."),
    "queue": ("bulkfetch.cli.queue:command", "Feed and look at the queue that many workers share."),
    "check": ("bulkfetch.cli.check:command", "Test configuration, token, API and destination before a run."),
    "sandbox": ("bulkfetch.cli.sandbox:command", "Serve a local stand-in for the API, with faults on demand."),
    "demo": ("bulkfetch.cli.demo:command", "Sandbox and run in one command; no account needed."),
}


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 - click's signature
    if value:
        click.echo(f"bulkfetch {bulkfetch.__version__}")
        ctx.exit()


main = CommandGroup(
    "bulkfetch",
    COMMANDS,
    help="From expiring, authenticated invoice links to an archive that is provably complete.",
    epilog="bulkfetch COMMAND --help says more. The token comes from BULKFETCH_TOKEN, never from a flag.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
token_refusal(main)
click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)(main)
