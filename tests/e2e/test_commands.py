"""`demo`, `plan` and `check` from the outside."""

import json
import shlex
import signal

from support.program import assert_sound, bulkfetch, ids_of, objects, sandbox, started, summary, until, write_ids


def test_the_demo_needs_nothing_and_repeats_nothing(tmp_path):
    """Without token or configuration it archives every document of its own sandbox; again, all are skipped."""
    for stored in (60, 0):
        done = bulkfetch("demo", "--dir", tmp_path / "demo dir", "--invoices", 60, token=None)
        assert done.returncode == 0, done.stderr
        told = summary(tmp_path / "demo dir" / "archive")
        assert (told.counts.read, told.counts.stored, told.counts.skipped) == (60, stored, 60 - stored)
        assert told.requests["links"].sent >= stored
        assert "bulkfetch plan" in done.stderr
    assert len(objects(tmp_path / "demo dir" / "archive")) == 60


def test_what_the_demo_says_next_can_be_typed(tmp_path):
    """The lines that the demo ends with work in the directory where they were printed, whatever its flags were."""
    done = bulkfetch("demo", "--dir", "it's a demo", "--invoices", 5, token=None, cwd=tmp_path)
    typed = [shlex.split(line, comments=True) for line in done.stderr.split("Next:")[1].splitlines() if line]
    typed = [words for words in typed if words]
    (plan,) = [words[1:] for words in typed if words[1] == "plan"]
    planned = bulkfetch(*plan, "--json", token=None, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["already_stored"] == 5
    (again,) = [words[1:] for words in typed if words[1] == "demo"]
    assert bulkfetch(*again, token=None, cwd=tmp_path).returncode == 0
    assert summary(tmp_path / "it's a demo" / "archive").counts.skipped == 5


def test_ctrl_c_ends_the_demo_in_order(tmp_path):
    """The demo heeds signals as a run does: what is stored has its row, and the summary is written."""
    archive = tmp_path / "archive"
    with started("demo", "--dir", tmp_path, "--invoices", 5_000, token=None) as process:
        until(lambda: archive.is_dir() and len(objects(archive)) > 10, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=40)
    assert process.returncode == 130, err.decode()
    assert b"interrupted" in err
    assert summary(archive).stopped_by == "interrupted by SIGINT"
    assert_sound(archive)


def tree(root):
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")
    }


def test_plan_counts_what_a_run_would_do_and_leaves_no_trace(tmp_path):
    """Rows, duplicates, rejected and stored are as the run then has them; plan writes nothing and asks nobody."""
    with sandbox(invoices=30) as served:
        ids = ids_of(served)
        source, dest = write_ids(tmp_path / "ids.txt", [*ids[:20], ids[0], "..", ids[3]]), tmp_path / "archive"
        args = (source, "--to", dest)
        before = bulkfetch("plan", *args, "--json", "--rate", 10, token=None)
        assert not dest.exists()
        assert served.stats.puts.total() == 0
        assert before.returncode == 3
        planned = json.loads(before.stdout)
        assert (planned["read"], planned["to_fetch"], planned["duplicates"], planned["rejected"]) == (23, 20, 2, 1)
        assert (planned["already_stored"], planned["seconds_at_rate"]) == (0, 2.0)
        assert planned["problems"][0][0] == 22
        assert bulkfetch("run", *args, "--api-url", served.api_url).returncode == 3
        counts = summary(dest).counts
        assert (counts.read, counts.stored, counts.skipped, counts.rejected) == (23, 20, 2, 1)
        write_ids(source, ids)
        there = tree(tmp_path)
        after = bulkfetch("plan", *args, "--json", token=None)
        assert tree(tmp_path) == there
    assert after.returncode == 0
    planned = json.loads(after.stdout)
    assert (planned["read"], planned["to_fetch"], planned["already_stored"]) == (30, 10, 20)
    text = bulkfetch("plan", *args, token=None).stdout
    assert "already stored" in text
    assert "20" in text


def test_plan_misses_a_pdf_as_a_run_does(tmp_path):
    """A PDF that has gone from the archive is to be fetched, by the plan's word as by the run's; nothing is touched."""
    with sandbox(invoices=8) as served:
        source, dest = write_ids(tmp_path / "ids.txt", ids_of(served)), tmp_path / "archive"
        assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
        gone, cut = sorted(objects(dest))[:2]
        (dest / gone).unlink()
        (dest / cut).chmod(0o600)
        (dest / cut).write_bytes(b"%PDF-")
        there = tree(tmp_path)
        planned = json.loads(bulkfetch("plan", source, "--to", dest, "--json", token=None).stdout)
        assert (planned["already_stored"], planned["to_fetch"], planned["manifests_only"]) == (6, 2, False)
        assert tree(tmp_path) == there
        (dest / cut).unlink()
        assert bulkfetch("run", source, "--to", dest, "--api-url", served.api_url).returncode == 0
        assert (summary(dest).counts.skipped, summary(dest).counts.stored) == (6, 2)


def marks(done):
    """The checks' names by outcome."""
    found = {"✓": [], "✗": [], "\N{EN DASH}": []}
    for line in done.stdout.splitlines():
        found[line[0]].append(line[3:].split("  ")[0].strip())
    return found["✓"], found["✗"], found["\N{EN DASH}"]


def test_check_finds_everything_in_order(tmp_path):
    """All checks pass: exit code 0; a probe reads one PDF and keeps none."""
    with sandbox(invoices=5) as served:
        args = ("check", "--to", tmp_path / "archive", "--api-url", served.api_url)
        done = bulkfetch(*args, PYTHONIOENCODING="utf-8")
        assert done.returncode == 0, done.stdout
        assert marks(done) == (["key template", "token", "clock", "api", "destination"], [], [])
        probed = bulkfetch(*args, "--probe", ids_of(served)[0], PYTHONIOENCODING="utf-8")
        assert probed.returncode == 0, probed.stdout
        assert "a PDF of" in probed.stdout
        unknown = bulkfetch(*args, "--probe", "nobody", PYTHONIOENCODING="utf-8")
        assert (unknown.returncode, marks(unknown)[1]) == (5, ["api"])
    assert objects(tmp_path / "archive") == {}


def test_check_says_what_is_missing(tmp_path):
    """Without a token, with a wrong one, without an API, without a usable destination: exit code 5, and which it is."""
    utf8 = {"PYTHONIOENCODING": "utf-8"}
    with sandbox(invoices=5) as served:
        args = ("check", "--to", tmp_path / "archive", "--api-url", served.api_url)
        none, wrong = bulkfetch(*args, token=None, **utf8), bulkfetch(*args, token="wrong", **utf8)
        (tmp_path / "file").write_text("in the way")
        bad = bulkfetch("check", "--to", tmp_path / "file" / "x", "--api-url", served.api_url, **utf8)
    down = bulkfetch(*args, **utf8)
    assert [done.returncode for done in (none, wrong, bad, down)] == [5, 5, 5, 5]
    assert (marks(none)[1], marks(none)[2]) == (["token"], ["api"])
    assert marks(wrong)[1] == ["api"]
    assert marks(bad)[1] == ["destination"]
    assert marks(down)[1] == ["clock", "api"]
    assert "cannot connect" in down.stdout
