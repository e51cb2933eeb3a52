"""docs/verify.md: an auditor without bulkfetch finds what `verify` finds, by the recipes as they stand there."""

import re
import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest
from support.program import bulkfetch, ids_of, sandbox, write_ids
from support.runs import begin

THERE = "/archive/invoices"


def recipe(language, archive):
    text = (Path(__file__).parents[2] / "docs/verify.md").read_text("utf-8")
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert THERE in code
    return code.replace(THERE, str(archive)).replace("/tmp/named", f"{archive}.named")


def by_shell(archive):
    done = subprocess.run(["sh", "-c", recipe("sh", archive)], capture_output=True, text=True, timeout=50)
    return done.returncode != 0, done.stdout + done.stderr


def by_sql(archive):
    found = duckdb.connect().execute(recipe("sql", archive)).fetchall()
    return bool(found), str(found)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs, and between them one that died."""
    base = tmp_path_factory.mktemp("made")
    with sandbox(invoices=12) as served:
        for number in (5, 12):
            ids = write_ids(base / "ids.txt", ids_of(served)[:number])
            done = bulkfetch("run", ids, "--to", base / "archive", "--api-url", served.api_url)
            assert done.returncode == 0, done.stderr
            if number == 5:
                begin(base / "archive", DEAD)
    return base / "archive"


DEAD = "20250101T000000Z-00000d"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "none": lambda archive: None,
    "a changed byte": lambda archive: flip(min(archive.glob("*.pdf"))),
    "a missing object": lambda archive: min(archive.glob("*.pdf")).unlink(),
    "an extra object": lambda archive: (archive / "extra.pdf").write_bytes(b"x"),
    "a changed row": lambda archive: rewrite(max((archive / "manifests").glob("*.jsonl")), b'"links":1', b'"links":2'),
    "a missing manifest": lambda archive: max((archive / "manifests").glob("*.jsonl")).unlink(),
    "a changed summary": lambda archive: rewrite(
        min((archive / "manifests").glob("*.json")), b'"exit_code": 0', b'"exit_code": 1'
    ),
}


def rewrite(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize("by", [by_shell, by_sql])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_recipes_find_each_damage(made, tmp_path, by, damage):
    """What is sound passes, and each planted damage is found, as by `verify`."""
    archive = Path(shutil.copytree(made, tmp_path / "archive"))
    DAMAGES[damage](archive)
    found, said = by(archive)
    assert found == (damage != "none"), said
    assert bulkfetch("verify", archive).returncode == (6 if found else 0)


def test_the_shell_recipe_finds_a_change_to_what_a_run_that_died_left(made, tmp_path):
    """The beginning of a manifest without a summary is sealed by the next run."""
    archive = Path(shutil.copytree(made, tmp_path / "archive"))
    rewrite(archive / "manifests" / f"{DEAD}.jsonl", b"INV-1", b"INV-2")
    found, said = by_shell(archive)
    assert found, said
    assert DEAD in said
