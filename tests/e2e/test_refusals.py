"""What cannot be run is refused with its own exit code and one line that names the fix."""

import gzip
import subprocess

import pytest
from support.program import bulkfetch, command, environment, ids_of, rows, sandbox, started, summary, until, write_ids


@pytest.fixture(scope="module")
def served():
    """A sandbox that never fails."""
    with sandbox(invoices=30) as running:
        yield running


def refused(done, code):
    """The one line on stderr of a command that ended with `code`."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("bulkfetch: error: ")
    return line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "nowhere.txt"}, "nowhere.txt"),
        ({"source": "ids.bin"}, "--format"),
        ({"--key": "{number}.pdf"}, "number"),
        ({"--key": "../{id}.pdf"}, ".."),
        ({"--key": "{fields[a]:%B}/{id}.pdf"}, "%B"),
        ({"BULKFETCH_SOURCE_DATE_FORMAT": "%Q"}, "[source] date_format"),
        ({"--to": "ftp://host/archive"}, "ftp://"),
        ({"--workers": "none"}, "--workers"),
        ({"--max-size": "-1"}, "--max-size"),
        ({"--api-url": "coreapi.io"}, "http"),
        ({"-c": "typo.toml"}, "did you mean workers?"),
        ({"-c": "section.toml"}, "did you mean limits?"),
        ({"-c": "token.toml"}, "BULKFETCH_TOKEN"),
        ({"token": None}, "BULKFETCH_TOKEN"),
        ({"BULKFETCH_LIMITS_WORKRS": "3"}, "did you mean BULKFETCH_LIMITS_WORKERS?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, change, said):
    """Exit code 2, and nothing is created."""
    write_ids(tmp_path / "ids.txt", ["INV-1"])
    (tmp_path / "ids.bin").write_bytes(b"INV-1\n")
    (tmp_path / "typo.toml").write_text("[limits]\nworkrs = 3\n")
    (tmp_path / "section.toml").write_text("[limit]\nworkers = 3\n")
    (tmp_path / "token.toml").write_text('[api]\ntoken = "eyJCANARY"\n')
    there = sorted(tmp_path.iterdir())
    flags = {"--to": "archive", "--api-url": "http://127.0.0.1:9"} | {k: v for k, v in change.items() if k[0] == "-"}
    environ = {name: value for name, value in change.items() if name.startswith("BULKFETCH_")}
    done = bulkfetch(
        "run", change.get("source", "ids.txt"), *[word for flag in flags.items() for word in flag],
        token=change.get("token", "sandbox"), cwd=tmp_path, **environ,
    )  # fmt: skip
    line = refused(done, 2)
    assert said in line
    assert "CANARY" not in line
    assert sorted(tmp_path.iterdir()) == there


def test_a_second_run_on_the_archive_is_refused(served, tmp_path):
    """Exit code 7, and the message names the process that holds it; the first run is none the worse."""
    source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
    options = ("--to", dest, "--api-url", served.api_url)
    # Until its input ends, the first run cannot end before the second one has come.
    with started("run", "-", *options) as first:
        until(lambda: (dest / "manifests").is_dir() and list((dest / "manifests").iterdir()), first)
        assert f"process {first.pid} on" in refused(bulkfetch("run", source, *options), 7)
        _, err = first.communicate(source.read_bytes(), timeout=40)
        assert first.returncode == 0, err
    assert summary(dest).counts.stored == len(rows(dest)) == 30


def test_an_empty_input_is_not_complete_unless_that_is_said(served, tmp_path):
    """Exit code 3, of a plan as of a run; 0 with --allow-empty; with --expect it says what was expected."""
    source, dest = tmp_path / "ids.txt", tmp_path / "archive"
    source.write_text("# nothing yet\n\n")
    args = ("run", source, "--to", dest, "--api-url", served.api_url)
    for done in (bulkfetch(*args), bulkfetch("plan", source, "--to", dest)):
        assert done.returncode == 3, done.stderr
        assert "no row; if that is right, add --allow-empty" in done.stderr
    assert summary(dest).counts.read == 0
    assert bulkfetch(*args, "--allow-empty").returncode == 0
    assert bulkfetch("plan", source, "--to", dest, "--allow-empty").returncode == 0
    assert "30 rows were expected and 0 came" in bulkfetch(*args, "--allow-empty", "--expect", 30).stderr


def test_another_number_of_rows_than_expected_is_a_failure(served, tmp_path):
    """Every row may be stored: --expect still ends with 3 and says both numbers, even with -q."""
    source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)[:7]), tmp_path / "archive"
    args = ("run", source, "--to", dest, "--api-url", served.api_url, "-q")
    done = bulkfetch(*args, "--expect", 8)
    assert done.returncode == 3
    assert "8 rows were expected and 7 came" in done.stderr
    assert summary(dest).counts.stored == 7
    assert bulkfetch(*args, "--expect", 7).returncode == 0


def test_an_unusable_destination_stops_before_any_request(served, tmp_path):
    """A destination below a file cannot be created: exit code 5, the path is named, the API is not asked."""
    source = write_ids(tmp_path / "ids.txt", ids_of(served))
    asked = served.stats.puts.total()
    (tmp_path / "file").write_text("in the way")
    done = bulkfetch("run", source, "--to", tmp_path / "file" / "archive", "--api-url", served.api_url)
    assert str(tmp_path / "file") in refused(done, 5)
    assert served.stats.puts.total() == asked


def test_an_input_that_breaks_in_the_middle_ends_the_run_resumably(served, tmp_path):
    """Damaged gzip: what was read before it is archived and accounted for; the exit code is not 0."""
    ids = ids_of(served)
    data = gzip.compress("".join(f"{invoice_id}\n" for invoice_id in ids).encode())
    source, dest = tmp_path / "ids.txt.gz", tmp_path / "archive"
    source.write_bytes(data[: len(data) * 2 // 3])
    done = bulkfetch("run", source, "--to", dest, "--api-url", served.api_url)
    assert done.returncode == 5, done.stderr
    assert "ends too early" in done.stderr
    told = summary(dest)
    assert not told.complete
    assert told.input_sha256 is None
    source.write_bytes(data)
    assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
    assert summary(dest).counts.read == 30


@pytest.mark.parametrize(("limits", "code"), [("ulimit -n 100", 2), ("ulimit -S -n 100", 0)])
def test_a_run_that_can_need_more_open_files_than_it_may_have(tmp_path, served, limits, code):
    """The soft limit is raised to what the workers can need; a hard limit below that is refused before anything."""
    source = write_ids(tmp_path / "ids.txt", ids_of(served))
    args = command("run", source, "--to", tmp_path / "archive", "--api-url", served.api_url, "-q")
    done = subprocess.run(
        ["sh", "-c", f'{limits}; exec "$@"', "sh", *args],
        capture_output=True,
        text=True,
        timeout=40,
        env=environment("sandbox", {}),
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "limits.workers = 32 can need 480 open files, and this process may have 100" in refused(done, code)
        assert not (tmp_path / "archive").exists()
