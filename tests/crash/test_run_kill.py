"""kill -9 of the whole program at random moments: nothing is lost, nothing is done twice, nothing partial is seen."""

import random
import time

from support.program import (
    all_rows,
    assert_sound,
    bulkfetch,
    ids_of,
    objects,
    pdf_of,
    rows,
    sandbox,
    started,
    until,
    write_ids,
)

from bulkfetch.manifest import list_runs, unfinished_runs, verify_chain

KILLS = 10
LONGEST_LIFE = 0.25


def refetched(held, before, now):
    """The keys of objects that were there, and were asked for all the same."""
    return held.keys() & {f"{invoice_id}.pdf" for invoice_id in before if now[invoice_id] > before[invoice_id]}


def test_ten_kills_lose_nothing(tmp_path):
    """After each kill every visible object is whole and every row has its object; then one run completes the archive,
    and over all runs no invoice with a row, nor any with an object, was fetched again."""
    moments = random.Random(20_250_131)
    held: dict[str, bytes] = {}
    before: dict[str, int] = {}
    with sandbox(invoices=500, faults={"latency": 0.06}) as served:
        ids = ids_of(served)
        source, dest = write_ids(tmp_path / "ids.txt", ids), tmp_path / "archive"
        expected = {f"{invoice_id}.pdf": pdf_of(served, invoice_id) for invoice_id in ids}
        args = ("run", source, "--to", dest, "--api-url", served.api_url, "--workers", 16)
        for number in range(KILLS):
            with started(*args) as process:
                # Most of a life is spent on starting up; the clock runs from the moment the manifest is there.
                until(lambda number=number: len(list_runs(dest)) > number, process)
                time.sleep(moments.uniform(0, LONGEST_LIFE))
                process.kill()
            assert not refetched(held, before, served.stats.gets)
            held = objects(dest)
            # A run that was killed while it proved the directory leaves that; the next one takes it away.
            held.pop(".bulkfetch-probe", None)
            assert held.items() <= expected.items()
            assert_sound(dest)
            before = dict(served.stats.gets)
        died = len(unfinished_runs(dest))
        assert len(held) < len(ids), "the runs lived too long to be killed"
        done = bulkfetch(*args, "--workers", 32)
        assert done.returncode == 0, done.stderr
        assert not refetched(held, before, served.stats.gets)
    assert died == KILLS
    assert objects(dest) == expected
    assert_sound(dest)
    assert sorted(row.invoice_id for row in rows(dest)) == sorted(ids)
    stored = [row.invoice_id for row in all_rows(dest) if row.outcome == "stored"]
    assert sorted(stored) == sorted(ids), "each invoice was recorded as stored once, by one of the runs"
    recorded = {row.invoice_id for row in all_rows(dest) if row.run != list_runs(dest)[-1].id}
    adopted = {row.invoice_id for row in rows(dest) if row.reason == "adopted"}
    assert adopted == {key.removesuffix(".pdf") for key in held} - recorded
    assert verify_chain(dest) == []
