"""What surrounds a run: the locale, the limits of the process, and an archive that somebody else has touched."""

import os
import shlex
import subprocess

import pytest
from support.disks import AS_ROOT, Mount, mount  # noqa: F401 - a fixture
from support.program import (
    assert_sound,
    bulkfetch,
    command,
    environment,
    ids_of,
    objects,
    rows,
    sandbox,
    summary,
    write_ids,
)

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.fixture
def served():
    with sandbox(invoices=20) as running:
        yield running


@pytest.mark.parametrize("locale", [ASCII, {**ASCII, "LC_ALL": "xx_YY.nothing"}], ids=["C", "unknown"])
def test_names_need_no_locale(tmp_path, served, locale):
    """Umlauts in the key, in DEST, in the input and its name are archived under a locale that has none."""
    source = tmp_path / "rechnungen-ü.csv"
    source.write_text("id;kunde\n" + "".join(f"{invoice_id};Müller & Söhne\n" for invoice_id in ids_of(served)))
    dest = tmp_path / "archiv-ü"
    args = (source, "--to", dest, "--key", "Für {fields[kunde]}/{id}.pdf")
    locale = {**locale, "BULKFETCH_API_URL": served.api_url}
    done = bulkfetch("run", *args, "-vv", "--json", **locale)
    assert done.returncode == 0, done.stderr
    assert {key.partition("/")[0] for key in objects(dest)} == {"Für Müller & Söhne"}
    assert summary(dest).destination == str(dest)
    assert_sound(dest)
    assert "already stored      20" in bulkfetch("plan", *args, **locale).stdout


def test_paths_need_not_be_utf8(tmp_path, served):
    """A file and a directory from another age, named in Latin-1, are used, and named in escapes."""
    source, dest = (os.fsdecode(os.fsencode(tmp_path) + name) for name in (b"/ids-\xfc.txt", b"/archiv-\xfc"))
    with open(source, "w") as file:
        file.writelines(f"{invoice_id}\n" for invoice_id in ids_of(served))
    done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url)
    assert done.returncode == 0, done.stderr
    assert "archiv-\\udcfc" in done.stderr
    assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
    assert served.stats.downloads == 20


def under(limit, *args):
    """The program under a limit of the shell's `ulimit`."""
    line = f"ulimit {limit} && exec {shlex.join(command(*args))}"
    return subprocess.run(["sh", "-c", line], env=environment("sandbox", {}), capture_output=True, timeout=60)


@pytest.mark.parametrize("limit", ["-n 64", "-v 300000", "-v 200000", "-v 120000"])
def test_a_limit_that_is_too_low_is_no_bug(tmp_path, served, limit):
    """Too few files or too little memory are told as that, or are enough; the next run completes the archive."""
    source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
    done = under(limit, "run", source, "--to", dest, "--api-url", served.api_url)
    assert done.returncode in (0, 2, 5), done.stderr
    assert b"a bug in bulkfetch" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
    assert len(objects(dest)) == 20
    assert_sound(dest)


@AS_ROOT
def test_manifests_may_have_a_disk_of_their_own(tmp_path, served, mount: Mount):  # noqa: F811 - the fixture
    """`manifests/` on another file system is no reason to lose the summary."""
    dest = tmp_path / "archive"
    dest.mkdir()
    disk = mount("size=64m", "archive/manifests")
    source = write_ids(tmp_path / "ids.txt", ids_of(served))
    assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
    assert summary(dest).counts.stored == len(rows(dest)) == 20
    assert len(list(disk.glob("*.json"))) == 1


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_named_pipe_among_the_manifests_is_told(tmp_path, served, verb):
    """Nobody waits for whoever might write into it."""
    source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
    (dest / "manifests").mkdir(parents=True)
    os.mkfifo(dest / "manifests" / "20250101T000000Z-0a1b2c.jsonl")
    done = bulkfetch(verb, source, "--to", dest, BULKFETCH_API_URL=served.api_url)
    assert done.returncode == 5
    assert "20250101T000000Z-0a1b2c.jsonl is no file: see what it is, and move it elsewhere" in done.stderr
    assert served.stats.links == 0
