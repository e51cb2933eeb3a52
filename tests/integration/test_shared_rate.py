"""The shared rate, on a real NATS server: however many workers there are, the API sees one client."""

import bisect
import multiprocessing
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from itertools import chain, pairwise
from random import Random

import anyio
import pytest
from nats.js.errors import KeyWrongLastSequenceError
from support.nats_help import admin, opened, stream_of, until
from support.nats_server import nats_server
from support.rate_workers import work_in_a_process, workers

from bulkfetch.errors import FatalError, Reason, Throttled
from bulkfetch.net.gate import Gate
from bulkfetch.queues.jetstream import shared_rate as module

pytestmark = pytest.mark.anyio


LONG = 30.0
"""Seconds after which what normally takes one or two is taken to hang. How much of a rate is used is for the benchmark
(`benchmarks/shared_rate.py`): here each test asks for a number of starts, and how close they were."""


async def use(share, more, starts, *, waiters=1) -> None:
    """Start something in every slot, while `more` says so; `waiters` wait at the same time. Noted is when each could
    start: that this process was busy elsewhere then is not the shared rate's doing."""

    async def wait_and_start() -> None:
        while more():
            slot = await share.reserve()
            starts.append(max(slot, anyio.current_time()))
            await anyio.sleep(max(0.0, slot - anyio.current_time()))

    async with anyio.create_task_group() as tasks:
        for _ in range(waiters):
            tasks.start_soon(wait_and_start)


def most_in(starts, seconds) -> int:
    """How many of `starts` lie in any one span of `seconds`."""
    starts = sorted(starts)
    return max((bisect.bisect_left(starts, start + seconds) - index for index, start in enumerate(starts)), default=0)


def slack(rate) -> float:
    """How many more than the rate may start in a span: one reservation, and slots that are a little late."""
    return rate * (module.RESERVED + module.LATE) + 2


async def test_the_rate_is_kept_and_shared(nats) -> None:
    """Four busy workers never use more of the rate together than there is, and share it about evenly."""
    rate = 300.0
    async with workers(nats.queue(), 4, rate) as shares:
        starts = [[] for _ in shares]
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for share, own in zip(shares, starts, strict=True):
                    more = lambda: sum(map(len, starts)) < 2 * rate  # noqa: E731
                    tasks.start_soon(lambda share=share, own=own, more=more: use(share, more, own, waiters=3))
        together = list(chain.from_iterable(starts))
        assert most_in(together, 1.0) <= rate + slack(rate)
        assert most_in(together, 0.1) <= 0.1 * rate + slack(rate)
        assert min(map(len, starts)) > 0.25 * len(together) / 4


async def test_slots_are_evenly_spaced_and_nobodys_twice(nats) -> None:
    """The moments that all workers are given together lie a full interval apart."""
    async with workers(nats.queue(), 3, 50.0) as shares:
        slots = []
        for share in shares:
            # One clock: what each knows of it differs by a fraction of a millisecond, on a busy machine by more.
            share._clock.offset = shares[0]._clock.offset

        async def take(share) -> None:
            for _ in range(15):
                slot = await share.reserve()
                slots.append(slot)
                await anyio.sleep(max(0.0, slot - anyio.current_time()))

        async with anyio.create_task_group() as tasks:
            for share in shares:
                tasks.start_soon(take, share)
        slots.sort()
        gaps = [later - earlier for earlier, later in pairwise(slots)]
        assert min(gaps) > 0.02 - 1e-4


async def test_a_low_rate(nats) -> None:
    """Four a second are four a second for three workers together."""
    async with workers(nats.queue(), 3, 4.0) as shares:
        starts = []
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for share in shares:
                    tasks.start_soon(use, share, lambda: len(starts) < 5, starts)
        assert len(starts) >= 5
        assert most_in(starts, 0.2) == 1


async def test_workers_with_little_to_do_leave_the_rate_to_the_busy(nats) -> None:
    """Slots that a worker would not use in time are not taken from the others."""
    async with workers(nats.queue(), 5, 100.0) as (busy, *others):
        starts, taken, asked = [], Counter(), Counter()

        async def now_and_then(number, share, random) -> None:
            count = share._next_count

            def counted() -> int:
                found = count()
                taken[number] += found
                return found

            share._next_count = counted
            while len(starts) < 150:
                await share.reserve()
                asked[number] += 1
                await anyio.sleep(random.uniform(0.1, 0.3))

        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for number, share in enumerate(others):
                    tasks.start_soon(now_and_then, number, share, Random(number))
                await use(busy, lambda: len(starts) < 150, starts, waiters=8)
        # How little they need is known after the first ten.
        assert all(taken[number] <= 10 + 3 * asked[number] for number in range(len(others)))


async def test_no_rate_is_no_limit(nats) -> None:
    """With rate 0 every moment is now, and nothing is asked of the server."""
    async with workers(nats.queue(), 1, 0.0) as (share,):
        for _ in range(1000):
            assert await share.reserve() <= anyio.current_time()


async def test_old_slots_are_not_used_in_a_burst(nats) -> None:
    """Who has not asked for a while gets no slots for that time: not his own old ones, and not the others'."""
    async with workers(nats.queue(), 2, 50.0) as shares:
        starts: list[float] = []
        for _ in range(2):
            enough = len(starts) + 25
            with anyio.fail_after(LONG):
                async with anyio.create_task_group() as tasks:
                    for share in shares:
                        tasks.start_soon(use, share, lambda enough=enough: len(starts) < enough, starts)
            await anyio.sleep(0.6)
        assert most_in(starts, 0.2) <= 0.2 * 50 + slack(50.0)


async def test_a_pause_reaches_the_others_and_those_who_join(nats) -> None:
    """A pause that one worker is asked for is everybody's, the asker's excepted: also that of workers who come while
    it lasts, and a short one after it does not end it."""
    url = nats.queue()
    heard: list[tuple[int, float]] = []
    async with workers(url, 3, 10.0, on_pause=lambda *told: heard.append(told)) as shares:
        shares[0].pause(60.0)
        await until(lambda: len(heard) == 2)
        assert sorted(index for index, _ in heard) == [1, 2]
        # What they know of the server's clock differs, on a busy machine by more than a little.
        assert all(30.0 < seconds < 65.0 for _, seconds in heard)
        shares[1].pause(1.0)
        joined: list[tuple[int, float]] = []
        with anyio.fail_after(LONG):
            while not joined:  # what the first one asked for is written down a moment after the others heard of it
                async with workers(url, 1, 10.0, on_pause=lambda *told: joined.append(told)):
                    await anyio.sleep(0.05)
        await anyio.sleep(0.3)
        async with workers(url, 1, 10.0, on_pause=lambda *told: joined.append(told)):
            await anyio.sleep(0.05)
        assert [20.0 < seconds < 65.0 for _, seconds in joined] == [True, True]
        elsewhere: list[tuple[int, float]] = []
        async with workers(url, 1, 10.0, name="other", on_pause=lambda *told: elsewhere.append(told)):
            await anyio.sleep(0.05)
        assert elsewhere == []


async def test_a_pause_without_end_is_bounded(nats) -> None:
    """Nobody pauses for more than an hour on another's word, and nonsense is nothing."""
    heard = []
    async with workers(nats.queue(), 2, 10.0, on_pause=lambda *told: heard.append(told)) as (first, _):
        first.pause(1e12)
        await until(lambda: heard)
        for words in (b"", b"{}", b"\xff", b'{"by":"x","at":0.0,"seconds":5.0}'):
            await first._connection.client.publish(first._pauses.subject, words)
        await anyio.sleep(0.1)
    assert heard == [(1, 3600.0)]


async def test_workers_with_skewed_clocks_share_one_rate(nats) -> None:
    """Clocks that are minutes apart make no difference: times are the server's."""
    async with workers(nats.queue(), 3, 60.0) as shares:
        for number, share in enumerate(shares):
            true, skew = share._clock.now, (number - 1) * 300.0
            share._clock.now = lambda true=true, skew=skew: true() + skew
            share._slots.clear()
            await share._clock.set()
        starts = []

        async def work(share, skew) -> None:
            while len(starts) < 90:
                slot = await share.reserve() - skew
                starts.append(max(slot, anyio.current_time()))
                await anyio.sleep(max(0.0, slot - anyio.current_time()))

        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for number, share in enumerate(shares):
                    tasks.start_soon(work, share, (number - 1) * 300.0)
        assert most_in(starts, 1.0) <= 60 + slack(60.0)


async def test_a_clock_that_was_set_back_stops_nobody(nats) -> None:
    """A cursor that lies far in the future, after the server's clock was set back, is not waited for."""
    async with workers(nats.queue(), 1, 50.0) as (share,):
        await share._kv.put(share._cursor_key, b'{"until":%d.0}' % (time.time() + 3600))
        with anyio.fail_after(LONG):
            for _ in range(5):
                await share.reserve()


async def test_a_server_far_away(nats, monkeypatch) -> None:
    """Where an answer takes longer than a slot is good for, there are slots all the same, and the rate is kept."""
    async with workers(nats.queue(), 2, 60.0) as shares:
        for share in shares:
            update = share._kv.update

            async def slowly(*args, update=update, **named):
                await anyio.sleep(0.1)
                try:
                    return await update(*args, **named)
                except KeyWrongLastSequenceError:
                    raise
                finally:
                    await anyio.sleep(0.1)

            monkeypatch.setattr(share._kv, "update", slowly)
        starts = []
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for share in shares:
                    tasks.start_soon(lambda share=share: use(share, lambda: len(starts) < 120, starts, waiters=10))
        assert most_in(starts, 1.0) <= 60 + slack(60.0)


async def test_a_restart_of_the_server_in_between() -> None:
    """While the server is away nobody starts anything beyond the slots he has; then all go on at the same rate."""
    with nats_server() as server:
        async with workers(server.queue(), 2, 50.0) as shares:
            starts, enough = [], 10_000
            async with anyio.create_task_group() as tasks:
                for share in shares:
                    tasks.start_soon(lambda share=share: use(share, lambda: len(starts) < enough, starts, waiters=4))
                await until(lambda: len(starts) >= 40, LONG)
                server.kill()
                killed = anyio.current_time()
                await anyio.sleep(0.7)
                back = anyio.current_time()
                server.start()
                enough = len(starts) + 25
                await until(lambda: len(starts) >= enough, LONG)
            assert most_in(starts, 1.0) <= 50 + slack(50.0)
            assert len([start for start in starts if killed + 0.5 < start < back]) == 0


async def test_out_of_reach_for_too_long() -> None:
    """After `patience` seconds without the shared state nobody goes on, and everybody who waits is told."""
    with nats_server() as server:
        async with workers(server.queue(), 1, 50.0, patience=1.0) as (share,):
            await share.reserve()
            server.kill()
            failures = []

            async def wait() -> None:
                with pytest.raises(FatalError, match=r"the shared rate .*no connection"):
                    while True:
                        await share.reserve()
                failures.append(True)

            with anyio.fail_after(LONG):
                async with anyio.create_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(wait)
            assert len(failures) == 5


async def test_a_bucket_that_was_deleted_is_made_anew(nats) -> None:
    """The shared state may be lost: the rate goes on from now."""
    url = nats.queue()
    async with admin(url) as js, workers(url, 1, 50.0) as (share,):
        await share.reserve()
        await js.delete_key_value(f"{stream_of(url)}_state")
        with anyio.fail_after(LONG):
            for _ in range(60):
                slot = await share.reserve()
                await anyio.sleep(max(0.0, slot - anyio.current_time()))


async def test_a_worker_that_is_killed_does_not_let_the_others_exceed_the_rate(nats) -> None:
    """Of three real processes one is killed: the others take its share over, and the rate is never exceeded."""
    rate, context = 100.0, multiprocessing.get_context("spawn")
    pipes, processes, starts = [], [], []
    url = nats.queue()

    async def wait_for(number, after) -> None:
        """Take in what the processes tell, until that many have started after the moment `after`."""
        with anyio.fail_after(LONG):
            while sum(start > after for start in starts) < number:
                for ours in pipes:
                    with suppress(EOFError, OSError):
                        while ours.poll():
                            starts.append(ours.recv())
                await anyio.sleep(0.05)

    async with opened(url):
        pass
    try:
        for _ in range(3):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work_in_a_process, args=(url, rate, theirs), daemon=True)
            await anyio.to_thread.run_sync(process.start)
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for ours in pipes:
            await anyio.to_thread.run_sync(ours.recv)
        await wait_for(100, 0.0)
        os.kill(processes[0].pid, signal.SIGKILL)
        await wait_for(75, time.time() + 0.5)
    finally:
        for process in processes:
            process.kill()
        for process, ours in zip(processes, pipes, strict=True):
            await anyio.to_thread.run_sync(process.join)
            process.close()
            ours.close()
    assert most_in(starts, 1.0) <= rate + slack(rate)


def gate_of(share, *, max_outage=30.0) -> Gate:
    """A gate that keeps the shared rate."""
    gate = Gate("API", ceiling=64, max_outage=max_outage, rng=Random(1), notify=lambda event: None)
    gate.join(share)
    return gate


@pytest.mark.parametrize("rate", [200.0, 1000.0])
async def test_a_gate_with_many_waiters_keeps_the_rate(nats, rate) -> None:
    """Thirty requests at a time through one gate go on, and are no more than the rate."""
    async with workers(nats.queue(), 1, rate) as (share,):
        gate, starts = gate_of(share), []

        async def work() -> None:
            while len(starts) < 1.5 * rate:
                with await gate.enter():
                    starts.append(anyio.current_time())
                    await anyio.sleep(0.005)

        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for _ in range(30):
                    tasks.start_soon(work)
        # Each of those that wait may be late: on a machine that was busy elsewhere all of them at once.
        assert most_in(starts, 1.0) <= rate + slack(rate) + 30


async def test_a_refusal_at_one_gate_closes_those_of_the_others(nats) -> None:
    """A 429 that one worker meets stops the others until its time is up."""
    gates, heard = [], []

    def hear(index, seconds) -> None:
        heard.append(index)
        gates[index].pause(seconds)

    async with workers(nats.queue(), 2, 100.0, on_pause=hear) as shares:
        gates.extend(map(gate_of, shares))
        for gate in gates:
            with await gate.enter():
                pass
        refused = anyio.current_time()
        with pytest.raises(Throttled), await gates[0].enter():
            raise Throttled(Reason.RATE_LIMITED, "slow down", http_status=429, retry_after=2.0)
        await until(lambda: heard)
        with anyio.fail_after(LONG):
            with await gates[1].enter():
                assert anyio.current_time() - refused > 1.9


async def test_who_waits_for_a_slot_hears_that_the_run_is_given_up(nats) -> None:
    """A gate that gives up tells the one who waits for a far-away slot, too, at once."""
    async with workers(nats.queue(), 1, 0.05) as (share,):
        gate = gate_of(share)
        with await gate.enter():
            pass

        async def wait() -> None:
            with pytest.raises(FatalError, match="too long"), await gate.enter():
                pass

        # A slot comes every 20 s.
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(wait)
                await anyio.sleep(0.1)
                gate._give_up("out of service for too long")
