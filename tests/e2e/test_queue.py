"""Workers that share a queue: real processes, a real NATS server, a real API stand-in."""

import json
from collections import Counter
from contextlib import contextmanager

from e2e.harness import (
    all_rows,
    assert_sound,
    bulkfetch,
    ids_of,
    objects,
    pdf_of,
    sandbox,
    started,
    write_ids,
)

from bulkfetch.models import Outcome

QUICK = ("--until-empty", "--idle", "0.5")


def push(ids, queue, *more):
    """Feed the queue; what the command says of it."""
    done = bulkfetch("queue", "push", ids, "--queue", queue, "--json", *more, token=None)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)


def stats(queue):
    """What is in the queue."""
    done = bulkfetch("queue", "status", "--queue", queue, "--json", token=None)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def letters(queue):
    """The dead letters, by ID: a second one of an ID is an error."""
    done = bulkfetch("queue", "dead", "--queue", queue, "--json", token=None)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({letter["invoice_id"] for letter in found}) == len(found)
    return {letter["invoice_id"]: letter for letter in found}


def work(running, queue, archive, *more, **environ):
    """A worker, run to its end."""
    return bulkfetch("run", queue, "--to", archive, "--api-url", running.api_url, *more, **environ)


@contextmanager
def worker(running, queue, archive, *more, **environ):
    """A worker, running."""
    with started("run", queue, "--to", archive, "--api-url", running.api_url, *more, **environ) as process:
        yield process


def stored_once(archive, ids):
    """Each of `ids` has one object and one row `stored`; what was done twice says so."""
    assert_sound(archive)
    assert set(objects(archive)) == {f"{invoice_id}.pdf" for invoice_id in ids}
    stored = Counter(row.invoice_id for row in all_rows(archive) if row.outcome is Outcome.STORED)
    assert stored == Counter(ids)


def test_a_queue_is_fed_and_worked_off(nats, tmp_path):
    """What is pushed once or twice is archived once; bad rows are told, dead letters have their reason."""
    with sandbox(invoices=40) as running:
        ids, queue = write_ids(tmp_path / "ids.txt", [*ids_of(running), "nobodys", "a/b"]), nats.queue()
        first, again = push(ids, queue), push(ids, queue)
        assert (first["read"], first["queued"], first["rejected"]) == (42, 41, 1)
        assert (again["queued"], again["already_queued"]) == (0, 41)
        assert stats(queue) == {"waiting": 41, "leased": 0, "dead": 0}
        done = work(running, queue, tmp_path / "archive", *QUICK, "--expect", 41)
        assert done.returncode == 3, done.stderr
        assert stats(queue) == {"waiting": 0, "leased": 0, "dead": 1}
        assert letters(queue)["nobodys"]["reason"] == "not_found"
        stored_once(tmp_path / "archive", ids_of(running))
        assert objects(tmp_path / "archive")[f"{ids_of(running)[0]}.pdf"] == pdf_of(running, ids_of(running)[0])
