"""Workers of one queue that write into one bucket with versions, and one of which is killed."""

import hashlib
import os
from collections import Counter
from contextlib import ExitStack

import anyio
import pytest
from crash.test_fleet_kill import short_leases
from e2e.harness import ids_of, pdf_of, sandbox, started, until, write_ids
from e2e.test_bucket import PREFIX, content, machine, manifests, objects
from e2e.test_queue import letters, push, stats

from bulkfetch.models import Outcome

INVOICES = int(os.environ.get("BULKFETCH_TEST_INVOICES", "200"))
"""More of them make it a rehearsal: BULKFETCH_TEST_INVOICES=10000."""

WORKERS = 3
FAULTS = {"errors": 0.005, "truncate": 0.005, "latency": 0.02}


@pytest.mark.timeout(120 + INVOICES // 10)
def test_a_killed_worker_leaves_one_version_an_object(seaweed, nats, tmp_path):
    """Three workers on one machine, one killed at a third: each object is there once, in one version and whole, and has
    one row `stored`; what was done twice says so, and the dead letter is the hopeless one."""
    bucket, queue = seaweed.bucket(versioned=True), nats.queue()
    environ = machine(seaweed, tmp_path / "cache")
    with sandbox(invoices=INVOICES, size=5_000, faults=FAULTS) as running, ExitStack() as stack:
        ids = ids_of(running)
        everything = [*ids, "nobodys"]
        push(write_ids(tmp_path / "ids.txt", everything), queue)
        anyio.run(short_leases, queue)
        args = ("run", queue, "--to", f"s3://{bucket}/{PREFIX}", "--api-url", running.api_url, "--workers", 16)
        args += ("--until-empty", "--idle", "1", "--expect", len(everything))
        workers = [stack.enter_context(started(*args, **environ)) for _ in range(WORKERS)]
        until(lambda: len(objects(seaweed, bucket)) > INVOICES / 3)
        workers[0].kill()
        codes = []
        for worker in workers[1:]:
            _, said = worker.communicate(timeout=100 + INVOICES / 10)
            codes.append(worker.returncode)
            assert worker.returncode in (0, 3), said.decode()
        assert stats(queue) == {"waiting": 0, "leased": 0, "dead": 1}
        assert set(letters(queue)) == {"nobodys"}
        expected = {f"{invoice_id}.pdf": hashlib.sha256(pdf_of(running, invoice_id)).hexdigest() for invoice_id in ids}
        gets = running.stats.gets
    assert set(codes) <= {0, 3}
    versions = Counter(seaweed.versions(bucket))
    assert {key: versions[f"{PREFIX}/{key}"] for key in expected} == dict.fromkeys(expected, 1)
    assert set(objects(seaweed, bucket)) == expected.keys()
    rows, summaries = manifests(seaweed, bucket)
    stored = [row for row in rows if row.outcome is Outcome.STORED]
    assert Counter(row.invoice_id for row in stored) == Counter(ids)
    assert {row.key: row.sha256 for row in stored} == expected
    sample = sorted(expected)[:: max(1, len(expected) // 50)]
    assert all(hashlib.sha256(content(seaweed, bucket, key)).hexdigest() == expected[key] for key in sample)
    assert len(summaries) == WORKERS - 1
    counted = Counter((row.outcome.value, row.reason and row.reason.value) for row in rows)
    print(f"\n{INVOICES} invoices: rows {dict(counted)}, {sum(n > 1 for n in gets.values())} downloaded more than once")
