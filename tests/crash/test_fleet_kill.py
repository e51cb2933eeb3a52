"""Workers of one queue die, one by kill -9, many by a poisonous invoice, and so does the broker: nothing is lost."""

import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import nats
import pytest
from anyio.from_thread import start_blocking_portal
from e2e.harness import all_rows, command, environment, until, write_ids
from e2e.test_queue import letters, push, stats, stored_once
from nats_server import nats_server

from bulkfetch.manifest import list_runs, unfinished_runs, verify_chain
from bulkfetch.queues.streams import CONSUMER
from bulkfetch.sandbox import Faults, SandboxSettings, serve
from bulkfetch.sources.queue import MAX_DELIVERIES, SUSPECT

INVOICES = int(os.environ.get("BULKFETCH_TEST_INVOICES", "600"))
"""More of them make it a rehearsal: BULKFETCH_TEST_INVOICES=10000."""

WORKERS = 3
POISON = "poison"
NOBODYS = [f"nobodys-{number}" for number in range(5)]
ACK_WAIT = 2.0
FAULTS = Faults(errors=0.005, truncate=0.005, latency=0.01)


@dataclass
class Station:
    """A place where a worker runs, and is started anew when the poison has killed it. Its API kills whoever asks for
    that invoice."""

    number: int
    log: Path
    args: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    given_up: bool = False
    poisoned: int = 0
    codes: list[int] = field(default_factory=list)

    def kill(self) -> None:
        """kill -9, now."""
        assert self.process
        os.kill(self.process.pid, signal.SIGKILL)

    def supervise(self) -> None:
        """Run workers one after the other, until one ends by itself."""
        with self.log.open("ab") as log:
            while not self.given_up:
                self.process = subprocess.Popen(self.args, stdout=log, stderr=log, env=environment("sandbox", {}))
                self.codes.append(self.process.wait())
                if self.codes[-1] != -signal.SIGKILL:
                    return


class Poisoned(SandboxSettings):
    """The API of one station."""

    def serving(self, station: Station) -> "Poisoned":
        """With `station` as the one that dies of the poison."""
        object.__setattr__(self, "_station", station)
        return self

    def book(self):
        """A book in which one invoice is deadly to look up."""
        book, station, find = super().book(), self._station, super().book().find

        def deadly(invoice_id):
            if invoice_id == POISON:
                station.poisoned += 1
                station.kill()
            return find(invoice_id)

        book.find = deadly
        return book


@contextmanager
def stations(folder: Path, queue: str, archive: Path, expect: int) -> Iterator[list[Station]]:
    """The workers' places, each with an API that serves the same documents."""
    found = []
    with start_blocking_portal() as portal, ExitStack() as stack:
        for number in range(WORKERS):
            station = Station(number, folder / f"worker-{number}.log")
            settings = Poisoned(invoices=INVOICES, size=5_000, faults=FAULTS, record_requests=True).serving(station)
            api = stack.enter_context(portal.wrap_async_context_manager(serve(settings)))
            more = ("--until-empty", "--idle", "1", "--expect", str(expect), "--workers", "16")
            station.args = command("run", queue, "--to", archive, "--api-url", api.api_url, *more)
            station.api = api
            found.append(station)
        yield found
        for station in found:
            station.given_up = True
            if station.process and station.process.poll() is None:
                station.kill()


async def short_leases(queue: str) -> None:
    """Let what a dead worker held come back soon."""
    address, _, stream = queue.rpartition("/")
    async with await nats.connect(address) as client:
        js = client.jetstream()
        config = (await js.consumer_info(stream, CONSUMER)).config
        await js.add_consumer(stream, config.evolve(ack_wait=ACK_WAIT))


@pytest.mark.timeout(300 + INVOICES // 10)
def test_deaths_of_workers_and_broker_lose_nothing(tmp_path):
    """One worker is killed at a third and stays dead, the broker is killed and comes back, one invoice kills its
    workers again and again: each good invoice has one object and one row `stored`, the dead letters are the hopeless
    and the poison."""
    archive = tmp_path / "archive"
    book = SandboxSettings(invoices=INVOICES).book()
    ids = list(book.ids())
    everything = [*ids[: INVOICES // 2], POISON, *NOBODYS, *ids[INVOICES // 2 :]]
    with nats_server() as broker:
        queue = broker.queue()
        assert push(write_ids(tmp_path / "ids.txt", everything), queue)["queued"] == len(everything)
        anyio.run(short_leases, queue)
        with stations(tmp_path, queue, archive, len(everything)) as places:
            threads = [threading.Thread(target=place.supervise) for place in places]
            for thread in threads:
                thread.start()
            until(lambda: len(objects_in(archive)) > INVOICES / 3)
            places[0].given_up = True
            places[0].kill()
            until(lambda: len(objects_in(archive)) > INVOICES / 2)
            broker.kill()
            broker.start()
            for thread in threads:
                thread.join(timeout=200 + INVOICES / 10)
                assert not thread.is_alive(), "a worker did not end"
            left, dead = stats(queue), letters(queue)
            gets = sum((Counter(place.api.stats.gets) for place in places), Counter())
            report(places, gets, archive)
    assert left == {"waiting": 0, "leased": 0, "dead": len(NOBODYS) + 1}
    assert {letter: dead[letter]["reason"] for letter in dead} == {
        **dict.fromkeys(NOBODYS, "not_found"),
        POISON: "poison",
    }
    assert SUSPECT <= sum(place.poisoned for place in places) <= MAX_DELIVERIES
    assert {code for place in places for code in place.codes} <= {-signal.SIGKILL, 0, 3}
    stored_once(archive, ids)
    assert len(unfinished_runs(archive)) == len(list_runs(archive)) - 2
    assert verify_chain(archive) == []


def objects_in(archive: Path) -> list[str]:
    """The names of the objects that are visible now."""
    return [name for name in os.listdir(archive) if name.endswith(".pdf")] if archive.exists() else []


def report(places, gets, archive) -> None:
    """What it cost, for who runs it with -s."""
    rows = Counter((row.outcome.value, row.reason and row.reason.value) for row in all_rows(archive))
    print(
        f"\n{INVOICES} invoices: {sum(map(len, (place.codes for place in places)))} worker lives, rows {dict(rows)}, "
        f"downloads {sum(gets.values())} of {len(gets)} invoices, {sum(n > 1 for n in gets.values())} more than once"
    )
