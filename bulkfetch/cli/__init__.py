"""The command line: flags, exit codes, and what a person sees."""

from bulkfetch.cli.commands import main

__all__ = ["main"]
