"""Workers of one queue die, one by kill -9, many by a poisonous invoice, and so does the broker: nothing is lost."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest
from support.bucket_archive import PREFIX, content, machine, manifests, objects
from support.program import all_rows, stored_once
from support.worker_processes import PATIENCE, all_ids, counted, let_them_die

from bulkfetch.manifest import list_runs, unfinished_runs, verify_chain
from bulkfetch.models import Outcome
from bulkfetch.sandbox import SandboxSettings
from bulkfetch.sandbox.pdf import render
from bulkfetch.sources.queue.poison import MAX_DELIVERIES

pytestmark = pytest.mark.timeout(2 * PATIENCE)


def objects_in(archive: Path) -> int:
    """How many objects are visible now."""
    return sum(name.endswith(".pdf") for name in os.listdir(archive)) if archive.exists() else 0


def test_deaths_of_workers_and_broker_lose_nothing(tmp_path):
    """In a directory that the workers share: each good invoice has one object and one row `stored`, the dead letters
    are the hopeless and the poison, and the chain of summaries is sound."""
    archive = tmp_path / "archive"
    told = let_them_die(tmp_path, archive, lambda: objects_in(archive), {})
    print(f"\n{told}, rows {counted(all_rows(archive))}")
    stored_once(archive, all_ids())
    assert len(unfinished_runs(archive)) == len(list_runs(archive)) - 2
    assert verify_chain(archive) == []


def test_they_leave_one_version_of_each_object_in_a_bucket(seaweed, tmp_path):
    """In a bucket with versions: each object is there once, in one version and whole, and has a row `stored`, but for
    a moment's coincidence one; what was done twice says so."""
    bucket = seaweed.bucket(versioned=True)
    told = let_them_die(
        tmp_path,
        f"s3://{bucket}/{PREFIX}",
        lambda: len(objects(seaweed, bucket)),
        machine(seaweed, tmp_path / "cache"),
        # Here the point is what a death leaves in the bucket: half as many will do.
        worn=MAX_DELIVERIES // 2,
    )
    rows, _ = manifests(seaweed, bucket)
    print(f"\n{told}, rows {counted(rows)}")
    book, ids = SandboxSettings(invoices=len(all_ids()), size=5_000).book(), all_ids()
    expected = {f"{invoice_id}.pdf": hashlib.sha256(render(book.find(invoice_id))).hexdigest() for invoice_id in ids}
    versions = Counter(seaweed.versions(bucket))
    assert {key: versions[f"{PREFIX}/{key}"] for key in expected} == dict.fromkeys(expected, 1)
    assert set(objects(seaweed, bucket)) == expected.keys()
    stored = [row for row in rows if row.outcome is Outcome.STORED]
    times = Counter(row.invoice_id for row in stored)
    assert times.keys() == set(ids)
    # Two workers may write the same row in the same moment (docs/queues.md); each names the one object there is.
    assert times.total() - len(times) <= 2
    assert {row.key: row.sha256 for row in stored} == expected
    sample = sorted(expected)[:: max(1, len(expected) // 50)]
    assert all(hashlib.sha256(content(seaweed, bucket, key)).hexdigest() == expected[key] for key in sample)
