"""The gate, by simulation on a virtual clock: what a server allows is found, an outage is charged to nobody."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random

import anyio
import pytest
from support.virtual_clock import run_virtual

from bulkfetch.errors import FatalError, LinkAged, OriginError, Reason, Throttled, TransientError
from bulkfetch.events import Event, OriginDown, OriginUp
from bulkfetch.net.gate import Gate
from bulkfetch.retrying import Effort, RetryPolicy, retrying

POLICY = RetryPolicy(attempts=5, wait_initial=0.5, wait_max=30.0, timeout=0.0)


class Server:
    """Allows `rate` requests a second with a bucket of `burst`; is out of service in the `outage` interval."""

    def __init__(
        self, *, rate: float, burst: float, latency: float = 0.02, outage: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self.rate, self.burst, self.latency, self.outage = rate, burst, latency, outage
        self.tokens, self.filled_at = burst, 0.0
        self.served: list[float] = []
        self.refused: list[float] = []
        self.in_flight = self.peak = 0

    async def answer(self) -> None:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await anyio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        now = anyio.current_time()
        if self.outage[0] <= now < self.outage[1]:
            raise OriginError(Reason.SERVER_ERROR, "down", http_status=503)
        self.tokens = min(self.burst, self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.tokens < 1.0:
            self.refused.append(now)
            raise Throttled(Reason.RATE_LIMITED, "slow down", http_status=429, retry_after=1.0)
        self.tokens -= 1.0
        self.served.append(now)


def gate(events: list[Event] | None = None, **options: float) -> Gate:
    return Gate(
        "API",
        ceiling=int(options.pop("ceiling", 64)),
        max_outage=options.pop("max_outage", 900.0),
        rng=Random(7),
        notify=(events if events is not None else []).append,
        **options,
    )


async def work_off(
    api: Gate,
    items: int,
    workers: int,
    answer: Callable[[], Awaitable[None]],
) -> int:
    """Let `workers` fetch `items`, each answered by `answer`; how many failed for good. What is refused waits by
    itself, in nobody's hands."""
    failed, left = 0, items
    ready = deque((number, 0) for number in range(items))

    async def ask(_: str) -> bool:
        await answer()
        return True

    async def fetch(number: int) -> None:
        with await api.enter(str(number)):
            await answer()

    async def worker() -> None:
        nonlocal failed, left
        while left:
            if not ready:
                await anyio.sleep(0.01)
                continue
            number, refusals = ready.popleft()
            loop = retrying(Effort(), POLICY, rng=Random(1), before_wait=lambda error, wait: None)
            try:
                await loop(partial(fetch, number))
            except Throttled as error:
                await api.settle(ask)
                wait = max(error.retry_after or 0.0, min(30.0, 2.0**refusals))
                asyncio.get_running_loop().call_later(wait, ready.append, (number, refusals + 1))
                continue
            except TransientError:
                failed += 1
            left -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(worker)
    return failed


@pytest.mark.parametrize(
    ("rate", "burst", "share"),
    [(50.0, 50.0, 0.95), (200.0, 400.0, 0.95), (8.0, 8.0, 0.95), (1000.0, 1000.0, 0.75), (50.0, 5.0, 0.75)],
)
def test_the_allowed_rate_is_found_and_used(rate: float, burst: float, share: float) -> None:
    """Behind a rate limit no item fails, under 3% are refused, and nearly all of it is used once it is found. In the
    first minute, which is all that there is at 1000 a second, three quarters are used."""

    async def main() -> None:
        server = Server(rate=rate, burst=burst)
        failed = await work_off(gate(), int(min(rate * 100, 13_000)), 64, server.answer)

        assert failed == 0
        warm = rate * 5.0
        late_refusals = [moment for moment in server.refused if moment > 5.0]
        assert len(late_refusals) < 0.03 * (len(server.served) - warm)
        assert len(server.served) / anyio.current_time() > share * rate

    run_virtual(main)


def test_no_request_starts_while_a_retry_after_runs() -> None:
    """After a 429 with Retry-After nothing is sent by anybody until the time is up, then a single probe."""

    async def main() -> None:
        api = gate()
        started: list[float] = []

        async def answer() -> None:
            started.append(anyio.current_time())
            await anyio.sleep(0.1)
            if 4 <= len(started) <= 12:
                raise Throttled(Reason.RATE_LIMITED, "slow down", http_status=429, retry_after=10.0)

        await work_off(api, 40, 16, answer)

        after = sorted(moment for moment in started if moment > 2.0)
        assert after[0] >= 10.1
        assert after[1] >= after[0] + 0.1

    run_virtual(main)


@pytest.mark.parametrize("length", [60.0, 600.0])
def test_an_outage_is_charged_to_nobody(length: float) -> None:
    """An origin that is down for a while costs no item, few probes, and the gate says when it closes and opens."""

    async def main() -> None:
        server = Server(rate=1e6, burst=1e6, outage=(1.0, 1.0 + length))
        events: list[Event] = []
        api = gate(events)
        calls = 0

        async def answer() -> None:
            nonlocal calls
            calls += 1
            await server.answer()

        failed = await work_off(api, 8_000, 64, answer)

        assert failed == 0
        assert calls - 8_000 < 64 + 20 + length / 15 + 10
        assert any(isinstance(event, OriginDown) for event in events)
        assert isinstance(events[-1], OriginUp)

    run_virtual(main)


def test_an_outage_past_the_limit_stops_the_run() -> None:
    """When an origin stays away longer than max_outage every waiting worker gets a FatalError."""

    async def main() -> None:
        server = Server(rate=1e6, burst=1e6, outage=(0.0, 1e9))
        with pytest.raises(BaseExceptionGroup) as caught:
            await work_off(gate(max_outage=300.0), 1000, 16, server.answer)

        assert caught.group_contains(FatalError)
        assert 300.0 < anyio.current_time() < 400.0

    run_virtual(main)


def test_links_that_age_in_the_queue_do_not_hide_an_outage() -> None:
    """A link that grew too old to be sent says nothing of its host: the outage goes on, and stops the run in time."""

    async def main() -> None:
        host = gate(ceiling=32, max_outage=900.0)

        efforts = [Effort() for _ in range(1000)]
        left = iter(efforts)

        async def attempt() -> None:
            minted_at = anyio.current_time()
            with await host.enter():
                if anyio.current_time() - minted_at > 480.0:
                    raise LinkAged("aged")
                await anyio.sleep(0.02)
                raise OriginError(Reason.CONNECTION, "cannot connect")

        async def worker() -> None:
            for effort in left:
                with suppress(TransientError):
                    await retrying(effort, POLICY, rng=Random(1), before_wait=lambda error, wait: None)(attempt)

        with pytest.raises(BaseExceptionGroup) as caught:
            async with anyio.create_task_group() as tasks:
                for _ in range(32):
                    tasks.start_soon(worker)

        assert caught.group_contains(FatalError)
        assert 900.0 < anyio.current_time() < 1000.0
        assert sum(effort.charged for effort in efforts) <= 20

    run_virtual(main)


@pytest.mark.parametrize("retry_after", [5.0, 3600.0])
def test_a_server_that_refuses_for_ever_stops_the_run(retry_after: float) -> None:
    """Refusals without end stop the run, after max_outage or, where the pauses are long, an hour more."""

    async def main() -> None:
        api = gate(max_outage=900.0)

        async def answer() -> None:
            await anyio.sleep(0.02)
            raise Throttled(Reason.RATE_LIMITED, "no", http_status=429, retry_after=retry_after)

        with pytest.raises(BaseExceptionGroup) as caught:
            await work_off(api, 1000, 32, answer)

        assert caught.group_contains(FatalError)
        assert anyio.current_time() < 900.0 + 3 * 4500.0

    run_virtual(main)


def test_whoever_waits_hears_at_once_that_the_run_is_given_up() -> None:
    """A worker that waits for a pause to end is told when another answer makes the wait pointless."""

    async def main() -> None:
        api = gate(max_outage=1.0)
        told: list[float] = []
        await work_off(api, 400, 64, Server(rate=1e6, burst=1e6).answer)
        began = anyio.current_time()
        *failed, slow = [await api.enter(f"inv-{number}") for number in range(21)]
        for permit in failed:
            permit.close(OriginError(Reason.SERVER_ERROR, "down"))
        api.pause(3000.0)

        async def wait() -> None:
            with pytest.raises(FatalError):
                await api.enter()
            told.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(2.0)
            slow.close(OriginError(Reason.SERVER_ERROR, "down"))
        assert told == [began + 2.0]

    run_virtual(main)


def test_a_bucket_that_was_empty_from_the_start_teaches_no_rate() -> None:
    """Where the very first requests are refused, as another client emptied the bucket, the run is not slow for ever."""

    async def main() -> None:
        api = gate()
        answers = iter([True] * 5)

        async def answer() -> None:
            await anyio.sleep(0.01)
            if next(answers, False):
                raise Throttled(Reason.RATE_LIMITED, "slow down", http_status=429, retry_after=0.0)

        failed = await work_off(api, 500, 1, answer)

        assert failed == 0
        assert 3.0 < anyio.current_time() < 60.0

    run_virtual(main)


def test_a_fixed_rate_is_never_exceeded() -> None:
    """With a rate of 20/s no second sees more than 21 starts, and nearly all of the rate is used."""

    async def main() -> None:
        server = Server(rate=1e6, burst=1e6)
        api = gate(rate=20.0)

        await work_off(api, 400, 32, server.answer)

        most = max(sum(start <= other < start + 1.0 for other in server.served) for start in server.served)
        assert most <= 21
        assert anyio.current_time() < 400 / 20 * 1.05

    run_virtual(main)


def test_concurrency_stays_under_the_ceiling_and_starts_small() -> None:
    """In flight are few at first, then up to the ceiling, never more."""

    async def main() -> None:
        server = Server(rate=1e6, burst=1e6)
        api = gate(ceiling=12)

        await work_off(api, 8, 32, server.answer)
        assert server.peak <= 5
        await work_off(api, 1000, 32, server.answer)
        assert server.peak == 12

    run_virtual(main)


def test_a_cancelled_request_gives_its_place_back() -> None:
    """Cancelling a request, a waiter or a probe leaves the gate usable and says nothing about the origin."""

    async def main() -> None:
        api = gate(ceiling=1)
        async with anyio.create_task_group() as tasks:

            async def hang() -> None:
                with await api.enter():
                    await anyio.sleep_forever()

            tasks.start_soon(hang)
            tasks.start_soon(hang)
            await anyio.sleep(1.0)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(1.0):
            with await api.enter():
                pass
        assert not api.outage

    run_virtual(main)


def test_a_few_invoices_that_always_fail_are_no_outage() -> None:
    """Ten that fail whatever is tried, with no other left to be answered, use up their tries and are charged; twenty in
    a row that fail are an outage."""
    efforts: list[Effort] = []

    async def fail(door: Gate, invoice: str) -> None:
        with await door.enter(invoice):
            raise OriginError(Reason.SERVER_ERROR, "500")

    async def scenario(count: int) -> bool:
        door = gate()
        efforts[:] = [Effort() for _ in range(count)]

        async def one(number: int) -> None:
            loop = retrying(efforts[number], POLICY, rng=Random(number), before_wait=lambda *_: None)
            with anyio.move_on_after(600.0), suppress(OriginError):
                await loop(partial(fail, door, f"inv-{number}"))

        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(one, number)
        return door.outage

    assert run_virtual(lambda: scenario(10)) is False
    assert [effort.charged for effort in efforts] == [5] * 10
    assert run_virtual(lambda: scenario(20)) is True


def test_what_failed_before_is_no_sign_of_an_outage():
    """Invoices that failed in a pass of their own before open no breaker, however many they are; others do, and then
    nobody is charged, whether it failed before or not."""

    async def main() -> None:
        origin = gate()

        async def fail(times: int, *, fresh: bool) -> OriginError:
            for _ in range(times):
                permit = await origin.enter(fresh=fresh)
                error = OriginError(Reason.SERVER_ERROR, "down")
                permit.close(error)
            return error

        assert (await fail(30, fresh=False)).charged
        assert not origin.outage
        await fail(19, fresh=True)
        assert not origin.outage
        assert not (await fail(1, fresh=True)).charged
        assert origin.outage
        assert not (await fail(1, fresh=False)).charged

    run_virtual(main)
