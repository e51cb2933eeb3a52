"""`bulkfetch retry` from the outside: what is unresolved, again, without a list."""

import json

from support.bucket_archive import PREFIX, machine
from support.bucket_archive import objects as bucket_objects
from support.program import assert_sound, bulkfetch, ids_of, objects, rows, sandbox, summary, write_ids

from bulkfetch.manifest import list_runs

KEY = "{fields[year]}/{id}.pdf"


def archive_with_gaps(tmp_path, known=5, all_of_them=8, **environ):
    """An archive with a run over a CSV of 8 invoices, of which the API knew 5; where it is, and all IDs."""
    with sandbox(invoices=all_of_them) as served:
        ids = ids_of(served)
    dest, source = tmp_path / "archive", tmp_path / "list.csv"
    source.write_text("id;year\n" + "".join(f"{each};202{number}\n" for number, each in enumerate(ids)))
    with sandbox(invoices=known) as served:
        args = ("run", source, "--to", dest, "--key", KEY, "--api-url", served.api_url)
        assert bulkfetch(*args, **environ).returncode == 3
    source.unlink()
    return dest, ids


def test_what_was_missing_comes_without_the_list(tmp_path):
    """Only the unresolved invoices are asked for, their columns make the keys, and their rows keep them; then there is
    nothing left to try, and no run is made for it."""
    dest, ids = archive_with_gaps(tmp_path)
    with sandbox(invoices=8) as served:
        planned = json.loads(bulkfetch("retry", dest, "--dry-run", "--json", token=None).stdout)
        assert (planned["invoices"], planned["reasons"][0]["reason"]) == (3, "not_found")
        assert set(planned["reasons"][0]["examples"]) == set(ids[5:])
        assert served.stats.puts.total() == 0
        args = ("retry", dest, "--key", KEY, "--api-url", served.api_url)
        done = bulkfetch(*args)
        assert done.returncode == 0, done.stderr
        assert set(served.stats.puts) == set(ids[5:])
        assert set(objects(dest)) == {f"202{number}/{each}.pdf" for number, each in enumerate(ids)}
        assert {row.invoice_id: dict(row.fields) for row in rows(dest)} == {
            ids[n]: {"year": f"202{n}"} for n in (5, 6, 7)
        }
        assert (summary(dest).source, summary(dest).kind, summary(dest).complete) == ("retry", "run", True)
        assert_sound(dest)
        runs = len(list_runs(dest))
        again = bulkfetch(*args)
        assert (again.returncode, again.stderr) == (0, "nothing is unresolved: there is nothing to try again\n")
        assert len(list_runs(dest)) == runs
    assert bulkfetch("retry", dest, "--dry-run", token=None).stdout == "0 invoices to try again\n"


def test_another_template_than_the_runs_is_refused(tmp_path):
    """Without the --key of the run, its invoices would land elsewhere: exit 2 names the key, and nothing is asked for.
    One that is given on the command line is meant."""
    dest, ids = archive_with_gaps(tmp_path)
    with sandbox(invoices=8) as served:
        args = ("retry", dest, "--api-url", served.api_url)
        refused = bulkfetch(*args)
        assert refused.returncode == 2
        assert "would have stored" in refused.stderr
        assert "--key" in refused.stderr
        assert served.stats.puts.total() == 0
        assert bulkfetch(*args, "--key", "{id}.pdf").returncode == 0
    assert {f"{each}.pdf" for each in ids[5:]} < set(objects(dest))


def test_a_part_of_what_is_unresolved(tmp_path):
    """--reason and --run choose; what is left out stays unresolved, and a run ID or reason that is none is refused."""
    dest = tmp_path / "archive"
    with sandbox(invoices=6, drafts=0.5, seed=1) as served:
        args = ("--to", dest, "--api-url", served.api_url)
        assert bulkfetch("run", write_ids(tmp_path / "a.txt", [*ids_of(served), "x-1"]), *args).returncode == 3
        assert bulkfetch("run", write_ids(tmp_path / "b.txt", ["x-2"]), *args).returncode == 3
        drafts = {row.invoice_id for row in rows(dest, 0) if row.reason == "unprocessable"}
        assert drafts
        first, second = (run.id for run in list_runs(dest))
        retry = ("retry", dest, *args[2:])
        for chosen, expected in (
            (("--reason", "unprocessable"), drafts),
            (("--run", second), {"x-2"}),
            (("--reason", "not_found", "--run", first), {"x-1"}),
        ):
            assert bulkfetch(*retry, *chosen).returncode == 3
            assert {row.invoice_id for row in rows(dest)} == expected
        assert bulkfetch(*retry, "--reason", "timeout").returncode == 0
        assert bulkfetch(*retry, "--reason", "nonsense").returncode == 2
        assert bulkfetch(*retry, "--run", "nonsense").returncode == 2


def test_many_that_fail_for_one_reason_stop_no_retry(tmp_path):
    """Twenty and more that fail alike are what the list is made of: every one is tried, and has its row."""
    dest, ids = tmp_path / "archive", [f"x-{number}" for number in range(25)]
    with sandbox(invoices=1) as served:
        args = ("--to", dest, "--api-url", served.api_url)
        assert bulkfetch("run", write_ids(tmp_path / "ids.txt", [*ids_of(served), *ids]), *args).returncode == 3
        done = bulkfetch("retry", dest, *args[2:])
    assert done.returncode == 3, done.stderr
    assert {row.invoice_id for row in rows(dest)} == set(ids)


def test_a_retry_into_a_bucket_from_another_machine(seaweed, tmp_path):
    """Nothing but the bucket is needed: its manifests name what is unresolved, with its columns."""
    bucket = seaweed.bucket()
    dest = f"s3://{bucket}/{PREFIX}"
    with sandbox(invoices=4) as served:
        ids = ids_of(served)
    source = tmp_path / "list.csv"
    source.write_text("id;year\n" + "".join(f"{each};2024\n" for each in ids))
    with sandbox(invoices=2) as served:
        args = ("--key", KEY, "--api-url", served.api_url)
        run = bulkfetch("run", source, "--to", dest, *args, **machine(seaweed, tmp_path / "one"))
        assert run.returncode == 3, run.stderr
    with sandbox(invoices=4) as served:
        args = ("--key", KEY, "--api-url", served.api_url)
        done = bulkfetch("retry", dest, *args, **machine(seaweed, tmp_path / "two"))
        assert done.returncode == 0, done.stderr
        assert set(served.stats.puts) == set(ids[2:])
    assert bucket_objects(seaweed, bucket) == sorted(f"2024/{each}.pdf" for each in ids)
