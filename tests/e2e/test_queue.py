"""Workers that share a queue: real processes, a real NATS server, a real API stand-in."""

import json
import os
import signal
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from support.nats_server import nats_server
from support.program import (
    all_rows,
    assert_sound,
    bulkfetch,
    ids_of,
    objects,
    pdf_of,
    sandbox,
    started,
    stored_once,
    until,
    write_ids,
)
from support.queues import dead_letters, push, shorten_leases, stats

from bulkfetch.app import archive
from bulkfetch.config import Config, Destination
from bulkfetch.errors import UsageError
from bulkfetch.manifest import list_runs, read_summary, verify_chain
from bulkfetch.models import Secret
from bulkfetch.queues import open_queue

AT_ONCE = ("--until-empty", "--idle", "0")
"""For a worker that has the queue to itself: it ends as soon as nothing is left, in its own hands included."""


def shown(*args, code=0):
    """What a command on the queue shows as JSON, one value a line."""
    done = bulkfetch("queue", *args, "--json", token=None)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def work(running, queue, archive, *more, **environ):
    """A worker, run to its end."""
    return bulkfetch("run", queue, "--to", archive, "--api-url", running.api_url, *more, **environ)


@contextmanager
def worker(running, queue, archive, *more, **environ):
    """A worker, running."""
    with started("run", queue, "--to", archive, "--api-url", running.api_url, *more, **environ) as process:
        yield process


def test_a_queue_is_fed_and_worked_off(nats, tmp_path):
    """What is pushed once or twice is archived once; bad rows are told, dead letters have their reason."""
    with sandbox(invoices=40) as running:
        ids, queue = write_ids(tmp_path / "ids.txt", [*ids_of(running), "nobodys", "a/b"]), nats.queue()
        (first,) = shown("push", ids, "--queue", queue, code=3)
        (again,) = shown("push", ids, "--queue", queue, code=3)
        assert (first["read"], first["queued"], first["rejected"]) == (42, 41, 1)
        assert (again["queued"], again["already_queued"]) == (0, 41)
        assert shown("status", "--queue", queue) == [{"waiting": 41, "leased": 0, "dead": 0}]
        done = work(running, queue, tmp_path / "archive", *AT_ONCE, "--expect", 41)
        assert done.returncode == 3, done.stderr
        assert stats(queue) == {"waiting": 0, "leased": 0, "dead": 1}
        (dead_letter,) = shown("dead", "--queue", queue)
        assert (dead_letter["invoice_id"], dead_letter["reason"]) == ("nobodys", "not_found")
        stored_once(tmp_path / "archive", ids_of(running))
        assert objects(tmp_path / "archive")[f"{ids_of(running)[0]}.pdf"] == pdf_of(running, ids_of(running)[0])


def test_a_row_without_a_key_is_not_queued(nats, tmp_path):
    """A row that has no value for the key is rejected before it is queued, with exit 3, as `plan` says beforehand."""
    source, queue = tmp_path / "ids.csv", nats.queue()
    source.write_text("id,customer\na,x\nb,\nc,y\n")
    key = "{fields[customer]}/{id}.pdf"
    planned = bulkfetch("plan", source, "--to", tmp_path / "archive", "--key", key, "--json", token=None)
    pushed = bulkfetch("queue", "push", source, "--queue", queue, "--json", token=None, BULKFETCH_DESTINATION_KEY=key)
    for done in (planned, pushed):
        assert done.returncode == 3, done.stderr
        shown = json.loads(done.stdout)
        assert (shown["read"], shown["rejected"]) == (3, 1)
        ((line, problem),) = shown["problems"]
        assert (line, "the field 'customer'" in problem) == (3, True)
    assert json.loads(pushed.stdout)["queued"] == 2
    assert stats(queue)["waiting"] == 2


def test_a_push_misses_a_pdf_as_a_run_does(nats, tmp_path):
    """With --skip-done an invoice whose PDF has gone from the archive is queued, though a manifest calls it stored."""
    with sandbox(invoices=5) as running:
        ids, archive = write_ids(tmp_path / "ids.txt", ids_of(running)), tmp_path / "archive"
        assert work(running, ids, archive).returncode == 0
    (archive / min(objects(archive))).unlink()
    (pushed,) = shown("push", ids, "--queue", nats.queue(), "--skip-done", archive)
    assert (pushed["queued"], pushed["already_stored"]) == (1, 4)


def test_a_stopped_worker_hands_back_at_once(nats, tmp_path):
    """SIGTERM under load: what is in hand is finished, the rest is with the other workers at once, nothing is fetched
    twice, and the exit code says that it was asked to end."""
    with sandbox(invoices=300, faults={"latency": 0.15}) as running:
        ids, queue, archive = write_ids(tmp_path / "ids.txt", ids_of(running)), nats.queue(), tmp_path / "archive"
        push(ids, queue)
        with worker(running, queue, archive) as process:
            until(lambda: len(objects(archive)) > 50, process)
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            assert process.wait(timeout=20) == 128 + signal.SIGTERM
            took = time.monotonic() - asked
        left = stats(queue)
        assert left["waiting"] + left["leased"] == 300 - len(objects(archive)) > 0
        assert took < 10
        # Well before the end of a lease (30 s), or the program's patience with it.
        done = work(running, queue, archive, *AT_ONCE, "--expect", 300)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - asked < 25
        assert max(running.stats.gets.values()) == 1
        stored_once(archive, ids_of(running))


def test_the_workers_of_a_queue_share_an_archive_that_no_other_run_may_touch(nats, tmp_path):
    """While workers hold the archive a run from a file is refused with exit 7, and so is a worker while a run does."""
    with sandbox(invoices=30, faults={"latency": 0.3}) as running:
        ids, queue, archive = write_ids(tmp_path / "ids.txt", ids_of(running)), nats.queue(), tmp_path / "archive"
        push(ids, queue)
        with worker(running, queue, archive) as one, worker(running, queue, archive) as two:
            until(lambda: len(list_runs(archive)) == 2, one)
            refused = work(running, ids, archive)
            assert refused.returncode == 7
            assert "another run holds this archive" in refused.stderr
            for process in (one, two):
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=20) == 128 + signal.SIGTERM
        assert verify_chain(archive) == []


def test_a_refilled_queue_is_found_to_be_done(nats, tmp_path):
    """A queue that was lost is filled again: with --skip-done only what is missing, and without it what is stored is
    skipped by its rows."""
    with sandbox(invoices=30) as running:
        half = write_ids(tmp_path / "half.txt", ids_of(running)[:15])
        ids, archive = write_ids(tmp_path / "ids.txt", ids_of(running)), tmp_path / "archive"
        assert work(running, half, archive).returncode == 0
        queue = nats.queue()
        (pushed,) = shown("push", ids, "--queue", queue, "--skip-done", archive)
        assert (pushed["queued"], pushed["already_stored"]) == (15, 15)
        assert push(ids, queue) == 15
        done = work(running, queue, archive, *AT_ONCE, "--expect", 30)
        assert done.returncode == 0, done.stderr
        assert max(running.stats.gets.values()) == 1
        stored_once(archive, ids_of(running))


def test_an_invoice_that_another_worker_stored_is_not_fetched_again(nats, tmp_path):
    """A second worker that is handed an ID which the first has recorded meanwhile finds the object and the row."""
    with sandbox(invoices=20) as running:
        ids, queue, archive = write_ids(tmp_path / "ids.txt", ids_of(running)), nats.queue(), tmp_path / "archive"
        push(write_ids(tmp_path / "none.txt", []), queue)
        with worker(running, queue, archive) as other:
            until(lambda: list_runs(archive), other)
            push(ids, queue)
            assert work(running, queue, archive, *AT_ONCE).returncode == 0
            assert push(ids, queue) == 20
            until(lambda: stats(queue) == {"waiting": 0, "leased": 0, "dead": 0}, other)
            other.send_signal(signal.SIGTERM)
            assert other.wait(timeout=30) == 128 + signal.SIGTERM
        assert max(running.stats.gets.values()) == 1
        stored_once(archive, ids_of(running))


def test_what_failed_is_tried_again_later_and_dead_letters_can_be_queued_again(nats, tmp_path):
    """A dead letter comes back with `requeue`, by its ID or its reason, and is gone from the list."""
    with sandbox(invoices=10) as running:
        ids, queue, archive = ["x-1", "x-2", *ids_of(running)], nats.queue(), tmp_path / "archive"
        push(write_ids(tmp_path / "ids.txt", ids), queue)
        assert work(running, queue, archive, *AT_ONCE, "--expect", 12).returncode == 3
        assert set(dead_letters(queue)) == {"x-1", "x-2"}
        assert bulkfetch("queue", "requeue", "--queue", queue, token=None).returncode == 2
        unknown = bulkfetch("queue", "requeue", "y-1", "--queue", queue, token=None)
        assert (unknown.returncode, unknown.stderr) == (3, "bulkfetch: not among the dead letters: y-1\n")
        again = bulkfetch("queue", "requeue", "x-1", "--queue", queue, token=None)
        assert again.returncode == 0, again.stderr
        assert set(dead_letters(queue)) == {"x-2"}
        assert stats(queue) == {"waiting": 1, "leased": 0, "dead": 1}
        bulkfetch("queue", "requeue", "--reason", "not_found", "--queue", queue, token=None)
        assert stats(queue) == {"waiting": 2, "leased": 0, "dead": 0}
        assert work(running, queue, archive, *AT_ONCE).returncode == 3
        assert set(dead_letters(queue)) == {"x-1", "x-2"}
        # Complete is a queue only without dead letters, whoever gave them up.
        idle = work(running, queue, archive, *AT_ONCE)
        assert idle.returncode == 3
        assert "finished, but not complete: the queue has 2 dead letters" in idle.stderr
        listed = bulkfetch("queue", "dead", "--queue", queue, token=None).stdout
        assert bulkfetch("queue", "forget", "--all", "--queue", queue, token=None).returncode == 0
        assert stats(queue) == {"waiting": 0, "leased": 0, "dead": 0}
        assert "x-1  not_found  1 delivery" in listed
        assert work(running, queue, archive, *AT_ONCE).returncode == 0


def test_the_expected_number_is_that_of_all_workers(nats, tmp_path):
    """--expect counts what all workers since the queue was last drained have accounted for, also for one that comes
    late and one that was killed; a wrong number is exit 3."""
    with sandbox(invoices=60, faults={"latency": 0.05}) as running:
        ids, queue, archive = write_ids(tmp_path / "ids.txt", ids_of(running)), nats.queue(), tmp_path / "archive"
        push(ids, queue)
        with worker(running, queue, archive) as process:
            until(lambda: len(all_rows(archive)) > 10, process)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
        assert work(running, queue, archive, *AT_ONCE, "--expect", 60).returncode == 0
        assert work(running, queue, archive, *AT_ONCE, "--expect", 60).returncode == 0
        done = work(running, queue, archive, *AT_ONCE, "--expect", 61)
        assert done.returncode == 3
        assert "61 rows were expected and 60 came" in done.stderr


def test_no_stream_is_told_with_the_fix(nats, tmp_path):
    """A worker on a queue that nobody has fed names the command that makes it."""
    with sandbox(invoices=1) as running:
        done = work(running, nats.queue(), tmp_path / "archive")
        assert done.returncode == 5
        assert "bulkfetch queue push" in done.stderr
        assert not (tmp_path / "archive").exists()


def test_the_pre_flight_looks_at_the_queue(nats, tmp_path):
    """`check --queue` says how much is in it, and fails where there is none."""
    with sandbox(invoices=1) as running:
        args, queue = ("check", "--api-url", running.api_url, "--queue"), nats.queue()
        missing = bulkfetch(*args, queue)
        assert missing.returncode == 5
        assert "bulkfetch queue push" in missing.stdout
        push(write_ids(tmp_path / "ids.txt", ids_of(running)), queue)
        found = bulkfetch(*args, queue)
        assert found.returncode == 0
        assert "1 waiting, 0 in work, 0 dead letters" in found.stdout


@pytest.mark.parametrize(
    "url", ["nats://user:canary@127.0.0.1:4222/invoices", "nats://user:can/ary@127.0.0.1/invoices"]
)
def test_credentials_do_not_stand_in_a_url(tmp_path, url):
    """A URL with a password is refused, and the password is not repeated."""
    done = bulkfetch("run", url, "--to", tmp_path / "archive")
    assert done.returncode == 2
    assert "NATS_USER" in done.stderr
    assert "ary" not in done.stderr


def test_a_mistyped_scheme_does_not_bring_a_password_out():
    """What is no queue's URL is told without what stands before its host."""
    done = bulkfetch("queue", "status", "--queue", "natz://user:can/ary@127.0.0.1/invoices")
    assert done.returncode == 2
    assert "nats://host:4222/stream" in done.stderr
    assert "ary" not in done.stderr


def test_a_broker_that_comes_back_is_waited_for(tmp_path):
    """The broker dies under a worker and comes back: the worker goes on, and nothing is lost."""
    with sandbox(invoices=120, faults={"latency": 0.05}) as running, nats_server() as broker:
        ids, queue, archive = write_ids(tmp_path / "ids.txt", ids_of(running)), broker.queue(), tmp_path / "archive"
        push(ids, queue)
        # What was acknowledged while the broker died may come again, when its lease ends.
        anyio.run(shorten_leases, queue)
        with worker(running, queue, archive, *AT_ONCE, "--expect", 120) as process:
            until(lambda: len(objects(archive)) > 30, process)
            broker.kill()
            time.sleep(0.5)
            broker.start()
            assert process.wait(timeout=60) == 0
        stored_once(archive, ids_of(running))


def test_the_brokers_password_is_told_to_nobody_else(tmp_path):
    """With a password the workers are let in, and without it refused with a hint; it is in no output, no command line,
    no file of the archive, no dead letter, and no message."""
    canary = "CANARYcanaryCANARY"
    with sandbox(invoices=20) as running, nats_server("--user", "somebody", "--pass", canary) as broker:
        ids, queue, archive = ["nobodys", *ids_of(running)], broker.queue(), tmp_path / "archive"
        login = {"NATS_USER": "somebody", "NATS_PASSWORD": canary}
        source = write_ids(tmp_path / "ids.txt", ids)
        said = [bulkfetch("queue", "push", source, "--queue", queue, token=None, **login)]
        assert said[0].returncode == 0, said[0].stderr
        with worker(running, queue, archive, *AT_ONCE, "-vv", "--json", **login) as process:
            cmdline = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            out, err = process.communicate(timeout=40)
        assert process.returncode == 3, err.decode()
        said.append(bulkfetch("queue", "dead", "--queue", queue, "--json", token=None, **login))
        assert "nobodys" in said[-1].stdout
        refused = bulkfetch("queue", "status", "--queue", queue, token=None, NATS_USER="x", NATS_PASSWORD=f"{canary}x")
        assert refused.returncode == 5
        assert "credentials" in refused.stderr
    written = [path.read_bytes() for path in archive.rglob("*") if path.is_file() and path.suffix != ".pdf"]
    told = [done.stdout + done.stderr for done in (*said, refused)]
    assert len(written) >= 3
    assert canary.encode() not in b"".join([cmdline, out, err, *written, *(text.encode() for text in told)])


def test_a_broker_that_does_not_answer_at_the_start_is_no_bug(tmp_path):
    """A server without JetStream, or whose JetStream is not ready yet, ends each command with exit 5."""
    with sandbox(invoices=1) as running, nats_server(jetstream=False) as broker, ExitStack() as commands:
        queue = broker.queue()
        # Each of them waits for an answer: at the same time.
        processes = [
            commands.enter_context(worker(running, queue, tmp_path / "archive")),
            commands.enter_context(started("queue", "status", "--queue", queue)),
            commands.enter_context(started("queue", "push", write_ids(tmp_path / "ids.txt", ["a"]), "--queue", queue)),
        ]
        for process in processes:
            _, err = process.communicate(timeout=40)
            assert process.returncode == 5, err.decode()
            assert b"no answer from the broker" in err
            assert b"Traceback" not in err


def test_an_account_that_cannot_be_read_costs_no_summary(nats, tmp_path):
    """With --expect a damaged manifest of a run that died ends the worker with exit 5, and its own run is finished."""
    with sandbox(invoices=10) as running:
        queue, archive = nats.queue(), tmp_path / "archive"
        push(write_ids(tmp_path / "first.txt", ids_of(running)[:5]), queue)
        assert work(running, queue, archive, *AT_ONCE).returncode == 0
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            opened = stack.enter_context(portal.wrap_async_context_manager(open_queue(queue, os.environ, notify=print)))
            # A message in other hands keeps the worker from its end until the damage is done.
            push(write_ids(tmp_path / "held.txt", ["held"]), queue)
            (held,) = portal.call(opened.fetch, 1, 5.0)
            push(write_ids(tmp_path / "second.txt", ids_of(running)[5:]), queue)
            process = stack.enter_context(worker(running, queue, archive, *AT_ONCE, "--expect", 10))
            until(lambda: len(all_rows(archive)) == 10, process)
            (died,) = (run for run in list_runs(archive) if run.summary)
            died.summary.unlink()
            lines = died.manifest.read_bytes().splitlines(keepends=True)
            died.manifest.write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
            portal.call(opened.ack, held)
            assert process.wait(timeout=20) == 5
        summary = read_summary(list_runs(archive)[-1].summary)
        assert (summary.exit_code, summary.counts.stored, summary.complete) == (5, 5, False)
        assert "damaged" in summary.stopped_by


def test_a_stop_while_the_broker_is_gone_ends_in_order(tmp_path):
    """SIGTERM after the broker died: what is in hand gets its rows, and the exit code is that of the stop."""
    with sandbox(invoices=100, faults={"latency": 0.3}) as running, nats_server() as broker:
        queue, archive = broker.queue(), tmp_path / "archive"
        push(write_ids(tmp_path / "ids.txt", ids_of(running)), queue)
        with worker(running, queue, archive, "--drain", "5") as process:
            until(lambda: len(objects(archive)) > 20, process)
            broker.kill()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=40) == 128 + signal.SIGTERM
        summary = read_summary(list_runs(archive)[-1].summary)
        assert (summary.exit_code, summary.counts.stored) == (128 + signal.SIGTERM, len(objects(archive)))
        assert_sound(archive)


def test_what_ends_a_run_on_a_queue_is_known_by_its_type(nats, tmp_path):
    """Called from Python, a run raises the error that it names, and no group around it."""
    queue = nats.queue()
    push(write_ids(tmp_path / "ids.txt", ["a"]), queue)
    config = Config(destination=Destination(url=str(tmp_path / "archive"), key="{bogus"))
    with pytest.raises(UsageError, match="key template"):
        anyio.run(partial(archive, config, queue, token=Secret("token")))
