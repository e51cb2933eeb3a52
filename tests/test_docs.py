"""README and code say the same: flags, exit codes, and the keys of a manifest row."""

import re
from pathlib import Path

import click
import pytest

from bulkfetch.cli.run import command as run
from bulkfetch.errors import ExitCode
from bulkfetch.models import Row

README = Path(__file__).parents[1] / "README.md"


def section(title: str) -> str:
    """The text below the README's heading `title`, up to the next of level two."""
    match = re.search(rf"^#+ {title}$(.*?)(?=^## |\Z)", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return match[1] if match else ""


FLAGS = [
    flag
    for option in run.params
    if isinstance(option, click.Option) and not option.hidden
    for flag in option.opts
    if flag.startswith("--")
]


@pytest.mark.parametrize("flag", FLAGS)
def test_the_readme_names_each_flag_of_run(flag):
    """A flag that is not in the README is one nobody finds."""
    assert re.search(rf"`[^`]*{flag}(?![\w-])", README.read_text("utf-8"))


@pytest.mark.parametrize("code", list(ExitCode), ids=lambda code: code.name)
def test_the_readme_explains_each_exit_code(code):
    """Scripts rely on exit codes: each has its row (or its place in a row) in the table under "Exit codes"."""
    cells = [line.split("|")[1] for line in section("Exit codes").splitlines() if line.startswith("|")]
    assert any(re.search(rf"\b{code.value}\b", cell) for cell in cells)


@pytest.mark.parametrize("key", Row.__struct_fields__)
def test_the_readme_explains_each_key_of_a_row(key):
    """The manifest is an interface: each key of a row is under "Manifest"."""
    assert f"`{key}`" in section("Manifest")
