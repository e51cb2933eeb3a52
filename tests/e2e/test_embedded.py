"""The engine inside somebody else's program: it leaves the process as it was, and several runs fit into one."""

import os
import resource
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial

import anyio
import pytest
from support.program import assert_sound, ids_of, objects, sandbox, summary, until, write_ids

from bulkfetch.app import archive
from bulkfetch.config import Api, Config, Destination, Limits
from bulkfetch.errors import ExitCode, UsageError
from bulkfetch.events import RowsRecorded
from bulkfetch.models import Secret
from bulkfetch.pipeline.stop import Interrupted, Stop

TRAPS = {
    "BULKFETCH_TOKEN": "somebody-elses",
    "BULKFETCH_LIMITS_WORKERS": "0",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "NATS_USER": "somebody-else",
    "WATCHDOG_USEC": "1000",
}
"""The host's own variables, each of which would be noticed in a run that read it."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP)
LOW_LIMIT = 128
"""Fewer open files than a run may need at most, and more than a run of two workers comes to."""


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A process with traps in its environment and a low limit of open files; how all of that looks."""
    for name, value in TRAPS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LOW_LIMIT, hard))
    yield lambda: (
        [signal.getsignal(signum) for signum in SIGNALS],
        signal.set_wakeup_fd(-1),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        dict(os.environ),
        threading.active_count(),
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def prepared(tmp_path, **settings):
    """A sandbox, the file of its IDs, and what configures a run into a directory of `tmp_path`."""
    with sandbox(**settings) as served:
        source = write_ids(tmp_path / "ids.txt", ids_of(served))

        def configured(name="archive", workers=2):
            return Config(
                api=Api(url=served.api_url),
                destination=Destination(url=str(tmp_path / name)),
                limits=Limits(workers=workers),
            )

        yield served, str(source), configured


def embedded(config, source, **more):
    """A run in a thread of its own, begun; `join` gives what it returned, or raises what it raised."""
    outcome = []

    def run():
        try:
            outcome.append(anyio.run(partial(archive, config, source, token=Secret("sandbox"), **more)))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that joins
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join(40)
        assert outcome, "the run hangs"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    return join


def test_a_run_in_a_thread_leaves_its_host_as_it_was(tmp_path, host):
    """Everything is stored; signal handlers, limits, variables and threads of the process are as before."""
    before = host()
    with prepared(tmp_path) as (served, source, configured):
        running = host()
        told = embedded(configured(), source)()
        until(lambda: host() == running)
        assert len(served.stats.gets) == 60
    until(lambda: host() == before)
    assert (told.exit_code, told.counts.stored) == (ExitCode.COMPLETE, 60)
    assert told == summary(tmp_path / "archive")
    assert len(objects(tmp_path / "archive")) == 60
    assert_sound(tmp_path / "archive")


def test_the_hosts_token_is_not_taken(tmp_path, host):
    """Without a token of its own a run refuses to begin, whatever the host's BULKFETCH_TOKEN is."""
    with prepared(tmp_path) as (served, source, configured):
        with pytest.raises(UsageError, match="token"):
            anyio.run(archive, configured(), source)
        assert served.stats.links == 0
    assert not (tmp_path / "archive").exists()


def test_two_runs_one_after_the_other(tmp_path):
    """The second one in the same process finds everything stored."""
    with prepared(tmp_path) as (served, source, configured):
        assert embedded(configured(), source)().counts.stored == 60
        assert embedded(configured(), source)().counts.skipped == 60
        assert max(served.stats.gets.values()) == 1


def test_two_runs_at_a_time(tmp_path):
    """Two threads, each with a loop of its own, fill two archives."""
    with prepared(tmp_path, faults={"latency": 0.05}) as (_, source, configured):
        times = {"one": [], "two": []}

        def listener(name):
            def listen(event):
                if isinstance(event, RowsRecorded):
                    times[name] += [time.monotonic()] * len(event.rows)

            return listen

        joins = [embedded(configured(name), source, listeners=[listener(name)]) for name in times]
        assert [join().counts.stored for join in joins] == [60, 60]
    assert max(first for first, *_ in times.values()) < min(last for *_, last in times.values()), "not at a time"
    for name in times:
        assert len(objects(tmp_path / name)) == 60
        assert_sound(tmp_path / name)


def test_a_stop_of_the_hosts_own(tmp_path):
    """What is in hand is finished and the summary tells the host's reason; the next run completes the archive."""
    with prepared(tmp_path, faults={"latency": 0.05}) as (served, source, configured):

        async def stopped():
            stop = Stop()
            rows = []

            def listen(event):
                if isinstance(event, RowsRecorded):
                    rows.extend(event.rows)
                    if len(rows) >= 5:
                        stop.request(Interrupted("the host closes"))

            token = Secret("sandbox")
            return await archive(configured(), source, token=token, stop=stop, listeners=[listen])

        told = anyio.run(stopped)
        assert (told.exit_code, told.complete, told.stopped_by) == (ExitCode.STOPPED, False, "the host closes")
        assert 5 <= told.counts.stored == told.counts.read < 60
        assert_sound(tmp_path / "archive")
        again = embedded(configured(), source)()
        assert (again.counts.skipped, again.counts.stored) == (told.counts.stored, 60 - told.counts.stored)
        assert max(served.stats.gets.values()) == 1


def test_a_cancelled_host_task_ends_the_run_in_order(tmp_path):
    """Nothing partial is seen, every object has its row, and the archive is free for the next run at once."""
    root = tmp_path / "archive"
    with prepared(tmp_path, faults={"latency": 0.05}) as (served, source, configured):
        rows = []

        async def cancelled():
            with anyio.CancelScope() as scope:

                def listen(event):
                    if isinstance(event, RowsRecorded):
                        rows.extend(event.rows)
                    if len(rows) >= 5:
                        scope.cancel()

                await archive(configured(workers=8), source, token=Secret("sandbox"), listeners=[listen])
            assert scope.cancelled_caught

        threads = threading.active_count()
        anyio.run(cancelled)
        # Idle threads are told to end, and not waited for: on a busy machine they take a moment.
        until(lambda: threading.active_count() == threads)
        stored = {row.key for row in rows}
        assert stored == objects(root).keys()
        assert 5 <= len(stored) < 60
        assert list((root / ".bulkfetch" / "tmp").glob("*")) == []
        assert_sound(root)
        again = embedded(configured(), source)()
        assert (again.exit_code, again.counts.skipped, again.counts.stored) == (0, len(stored), 60 - len(stored))
        asked = {key: number for key, number in served.stats.gets.items() if f"{key}.pdf" in stored}
        assert {key: number for key, number in asked.items() if number != 1} == {}
