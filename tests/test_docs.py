"""README and code say the same: flags, exit codes, keys of a manifest row. What documents point to exists."""

import importlib
import pkgutil
import re
from pathlib import Path

import click
import pytest

import bulkfetch
from bulkfetch import errors
from bulkfetch.cli.run import command as run
from bulkfetch.errors import ExitCode
from bulkfetch.keys import KeyTemplate
from bulkfetch.models import Row

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


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


def test_the_drawn_tree_names_every_error():
    """Who reads `errors.py` sees every class of error there is, also those that other modules define."""
    for module in pkgutil.walk_packages(bulkfetch.__path__, "bulkfetch."):
        if module.name != "bulkfetch.__main__":
            importlib.import_module(module.name)
    drawn = set(re.findall(r"\w+", errors.__doc__))
    assert {kind.__name__ for kind in subclasses(errors.BulkfetchError)} <= drawn


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/architecture.md"]
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FOREIGN = {"manifests/", ".bulkfetch/", "quarantine/", "bulkfetch.toml"}
"""Paths in an archive, and in a user's directory."""
PATH = re.compile(
    r"[a-z0-9_]+(?:/[a-z0-9_]+)*(?:/|\.py|\.md|\.toml)|tests/[a-z0-9_]+|\.ci/run|\.pre-commit-config\.yaml"
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def paths_in(document):
    """What `document` names as a file or folder of this repository: by a link, or as code that has the form of a path.
    Code is relative to the repository or, in short, to bulkfetch/."""
    text = (ROOT / document).read_text("utf-8")
    links = {(ROOT / document).parent / link for link in LINK.findall(text)}
    return {path.resolve().relative_to(ROOT).as_posix() for path in links} | {
        code for code in CODE.findall(text) if PATH.fullmatch(code)
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_exists(document):
    """Who follows a path from a document arrives: files that move take their mentions along."""
    named = paths_in(document) - FOREIGN
    assert named
    assert [
        path for path in sorted(named) if not (ROOT / path).exists() and not (ROOT / "bulkfetch" / path).exists()
    ] == []


def test_the_architecture_has_a_test_for_each_promise():
    """Each promise of the README has a row in the map: what keeps it, and the files of tests that hold it."""
    promises = re.findall(r"^\| (P\d+) \|", section("What it promises"), re.MULTILINE)
    rows = dict(re.findall(r"^\| (P\d+) \|(.*)$", (ROOT / "docs/architecture.md").read_text("utf-8"), re.MULTILINE))
    assert list(rows) == promises
    for promise, row in rows.items():
        keepers, tests = row.split("|")[:2]
        assert re.search(r"`[a-z_/]+\.py`", keepers), promise
        assert re.search(r"`tests/[a-z0-9_/]+\.py`", tests), promise


@pytest.mark.parametrize(
    ("template", "invoice_id", "key"),
    [
        ("{id}.pdf", "RE-2024-1001", "RE-2024-1001.pdf"),
        ("{id}.pdf", "a:b", "a%3ab~ffd6e723571a2b62.pdf"),
        ("{fields[name]}/{id}.pdf", "1", "Müller & Söhne GmbH/"),
        ("{fields[date]:%Y/%m}/{id}.pdf", "RE-1", "2024/12/RE-1.pdf"),
    ],
)
def test_the_readme_shows_names_as_they_are(template, invoice_id, key):
    """The names in the README are those that a run gives."""
    fields = {"name": "Müller & Söhne GmbH", "date": "2024-12-31"}
    assert KeyTemplate.parse(template).key_for(invoice_id, fields).startswith(key)
    assert f"`{key}`" in section("The archive")
