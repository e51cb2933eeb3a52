"""The installed command with a bucket as its destination, on a real S3 server that checks signatures."""

import hashlib
import json
import signal
import time
from collections import Counter

import pytest
from anyio.from_thread import start_blocking_portal
from support.bucket_archive import PREFIX, content, machine, manifests, objects
from support.program import bulkfetch, ids_of, pdf_of, sandbox, started, until, write_ids
from support.s3_proxy import S3Proxy, s3_error, s3_proxy

from bulkfetch.models import Outcome

SOON = {"manifest.bucket_mirror.OPENING": 0.5}
"""How long a bucket that does not answer is asked before a run begins."""


def test_a_killed_run_is_completed_by_another_machine(seaweed, tmp_path):
    """kill -9 in mid-run, then a run with nothing local: every object is there once, whole, in one version, and every
    invoice has exactly one row that says so."""
    bucket = seaweed.bucket(versioned=True)
    with sandbox(invoices=250, faults={"latency": 0.06, "errors": 0.02}) as served:
        ids = ids_of(served)
        args = ("run", write_ids(tmp_path / "ids.txt", ids), "--to", f"s3://{bucket}/{PREFIX}")
        args += ("--api-url", served.api_url, "--workers", 16)
        with started(*args, **machine(seaweed, tmp_path / "one")) as process:
            until(lambda: any(key.endswith("/0000000001.jsonl") for key in seaweed.keys(bucket)), process)
            process.kill()
        held = len(objects(seaweed, bucket))
        assert 0 < held < len(ids)
        fetched = dict(served.stats.gets)
        done = bulkfetch(*args, **machine(seaweed, tmp_path / "two"))
        assert done.returncode == 0, done.stderr
        expected = {f"{invoice_id}.pdf": pdf_of(served, invoice_id) for invoice_id in ids}
        found = {key: content(seaweed, bucket, key) for key in objects(seaweed, bucket)}
        refetched = [i for i in fetched if served.stats.gets[i] > fetched[i]]

    assert found == expected
    assert set(Counter(seaweed.versions(bucket)).values()) == {1}
    rows, summaries = manifests(seaweed, bucket)
    stored = [row for row in rows if row.outcome is Outcome.STORED]
    assert sorted(row.invoice_id for row in stored) == sorted(ids)
    for row in stored:
        assert row.sha256 == hashlib.sha256(expected[row.key]).hexdigest()
        assert row.version_id
        assert row.uri == f"s3://{bucket}/{PREFIX}/{row.key}"
    # What was being downloaded at the kill may be downloaded again; what was an object is not.
    assert len(refetched) <= 16
    assert len(summaries) == 1
    (summary,) = summaries.values()
    segments = b"".join(
        content(seaweed, bucket, key.removeprefix(f"{PREFIX}/"))
        for key in sorted(seaweed.keys(bucket))
        if f"/{summary['run']}/" in key
    )
    assert summary["manifest_sha256"] == hashlib.sha256(segments).hexdigest()
    assert summary["counts"]["read"] == len(ids)


def test_sigterm_leaves_no_upload_and_an_account(seaweed, tmp_path):
    """SIGTERM in the middle of uploads: exit 143, a summary in the bucket, no multipart upload left, nothing without
    a row; the same command completes it."""
    bucket = seaweed.bucket()
    with sandbox(invoices=120, size=200_000, faults={"latency": 0.2}) as served:
        args = ("run", write_ids(tmp_path / "ids.txt", ids_of(served)), "--to", f"s3://{bucket}/{PREFIX}")
        args += ("--api-url", served.api_url, "--workers", 16)
        environ = machine(seaweed, tmp_path / "one")
        with started(*args, **environ) as process:
            until(lambda: len(objects(seaweed, bucket)) > 20, process)
            process.terminate()
            assert process.wait(20) == 143
        rows, summaries = manifests(seaweed, bucket)
        stored = sorted(row.key for row in rows if row.outcome is Outcome.STORED)
        assert stored == objects(seaweed, bucket)
        assert len(stored) < 120
        assert [summary["exit_code"] for summary in summaries.values()] == [143]
        assert seaweed.uploads(bucket) == []
        assert bulkfetch(*args, **environ).returncode == 0
    assert len(objects(seaweed, bucket)) == 120


def test_a_bucket_that_cannot_be_used_stops_the_run_before_the_api_is_asked(seaweed, tmp_path):
    """A missing bucket, refused keys or a closed port: exit 5, one line that names the bucket, no request to the API,
    and `check` says the same."""
    bucket = seaweed.bucket()
    with sandbox(invoices=5) as served:
        source = write_ids(tmp_path / "ids.txt", ids_of(served))
        cases = [
            ("s3://no-such-bucket-here", {}),
            (f"s3://{bucket}/x", {"AWS_SECRET_ACCESS_KEY": "wrong"}),
            (f"s3://{bucket}/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        ]
        for number, (url, wrong) in enumerate(cases):
            environ = machine(seaweed, tmp_path / str(number)) | wrong | {"BULKFETCH_LIMITS_MAX_OUTAGE": "0.5"}
            done = bulkfetch("run", source, "--to", url, "--api-url", served.api_url, constants=SOON, **environ)
            assert done.returncode == 5, done.stderr
            assert url.removesuffix("/x") in done.stderr
            checked = bulkfetch("check", "--to", url, "--api-url", served.api_url, **environ)
            assert checked.returncode == 5
            assert "not-a-secret" not in done.stderr + checked.stdout + checked.stderr
        assert not served.stats.puts.keys() - {"bulkfetch-check"}


def test_a_bucket_that_vanishes_stops_the_run(seaweed, tmp_path):
    """The bucket is deleted in mid-run: exit 5, and no invoice is marked as failed for it."""
    bucket = seaweed.bucket()
    with sandbox(invoices=2000, faults={"latency": 0.05}) as served:
        source = write_ids(tmp_path / "ids.txt", ids_of(served))
        home = tmp_path / "one"
        environ = machine(seaweed, home) | {"BULKFETCH_LIMITS_MAX_OUTAGE": "1"}
        args = ("run", source, "--to", f"s3://{bucket}/{PREFIX}", "--api-url", served.api_url, "--workers", 8)
        with started(*args, **environ) as process:
            until(lambda: len(objects(seaweed, bucket)) > 20, process)
            seaweed.drop(bucket)
            _, stderr = process.communicate(timeout=40)
    assert process.returncode == 5, stderr.decode()
    local = b"".join(path.read_bytes() for path in home.rglob("*.jsonl"))
    assert b'"failed"' not in local


def test_plan_reads_the_bucket_and_leaves_nothing(seaweed, tmp_path):
    """`plan` knows from the bucket's manifests what is stored, and writes neither there nor locally."""
    bucket = seaweed.bucket()
    with sandbox(invoices=30) as served:
        ids = ids_of(served)
        some = write_ids(tmp_path / "some.txt", ids[:10])
        to = f"s3://{bucket}/{PREFIX}"
        done = bulkfetch("run", some, "--to", to, "--api-url", served.api_url, **machine(seaweed, tmp_path / "one"))
        assert done.returncode == 0, done.stderr
    before = seaweed.keys(bucket)
    source = write_ids(tmp_path / "ids.txt", ids)
    plan = bulkfetch("plan", source, "--to", to, "--json", **machine(seaweed, tmp_path / "two"))
    assert json.loads(plan.stdout)["already_stored"] == 10
    assert json.loads(plan.stdout)["to_fetch"] == 20
    assert json.loads(plan.stdout)["manifests_only"] is True
    text = bulkfetch("plan", source, "--to", to, **machine(seaweed, tmp_path / "two")).stdout
    assert "the objects were not looked for" in text
    assert seaweed.keys(bucket) == before
    assert not (tmp_path / "two").exists()


class NoSummaries(S3Proxy):
    """Answers every PUT of a summary with a refusal."""

    async def handle(self, request):
        if request.method == "PUT" and request.path.endswith(".json"):
            self.seen.append((request.method, request.raw_path))
            return s3_error(503, "SlowDown")()
        return await super().handle(request)


@pytest.mark.parametrize(("drain", "signals"), [(1, 1), (300, 2)])
def test_a_signal_ends_the_wait_for_the_summary(seaweed, tmp_path, drain, signals):
    """A bucket that does not take the summary holds up a run that is to end no longer than the drain, and not at all
    after a second signal: exit 5, all rows are safe, and the next run completes it."""
    bucket = seaweed.bucket()
    with sandbox(invoices=20) as served, start_blocking_portal() as portal:
        args = ("run", write_ids(tmp_path / "ids.txt", ids_of(served)), "--to", f"s3://{bucket}/{PREFIX}")
        args += ("--api-url", served.api_url, "--drain", drain)
        environ = machine(seaweed, tmp_path / "one")
        with (
            portal.wrap_async_context_manager(s3_proxy(seaweed, NoSummaries)) as proxy,
            started(*args, **environ | {"AWS_ENDPOINT_URL": proxy.endpoint}) as process,
        ):
            until(lambda: any(path.endswith(".json") and "/manifests/" in path for _, path in proxy.seen), process)
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 5, err.decode()
        assert b"cannot write" in err
        assert b"Traceback" not in err
        rows, summaries = manifests(seaweed, bucket)
        assert (len(rows), summaries) == (20, {})
        assert bulkfetch(*args, **environ).returncode == 0


class SilentOnLocks(S3Proxy):
    """Refuses every HEAD whose link is signed by itself, as the read-back of a lock is."""

    async def handle(self, request):
        if request.method == "HEAD" and "X-Amz-Signature" in request.query_string:
            return s3_error(403, "AccessDenied")()
        return await super().handle(request)


def test_check_tries_the_lock(seaweed, tmp_path):
    """`check` finds a lock_mode that the bucket cannot keep, and says where a lock cannot be read back; a run into such
    a bucket is complete, and its rows say nothing of locks."""
    locked, plain = seaweed.bucket(lock="on"), seaweed.bucket()
    lock = {"BULKFETCH_DESTINATION_LOCK_MODE": "GOVERNANCE", "BULKFETCH_DESTINATION_LOCK_DAYS": "2"}
    with (
        sandbox(invoices=3) as served,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(s3_proxy(seaweed, SilentOnLocks)) as proxy,
    ):
        for bucket, code, says in (
            (plain, 5, "the bucket needs Object Lock"),
            (locked, 0, "the lock of objects cannot be read back"),
        ):
            environ = machine(seaweed, tmp_path / bucket) | lock | {"AWS_ENDPOINT_URL": proxy.endpoint}
            args = ("--to", f"s3://{bucket}/{PREFIX}", "--api-url", served.api_url)
            done = bulkfetch("check", *args, **environ)
            assert done.returncode == code, done.stdout
            assert says in done.stdout
        done = bulkfetch("run", write_ids(tmp_path / "ids.txt", ids_of(served)), *args, **environ)
    assert done.returncode == 0, done.stderr
    assert "cannot be read back" in done.stderr
    rows, _ = manifests(seaweed, locked)
    assert [(row.outcome, row.lock_mode) for row in rows] == [(Outcome.STORED, None)] * 3
