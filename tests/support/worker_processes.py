"""Workers of one queue as processes that are supervised, and what kills them: for tests of their common end."""

import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.from_thread import start_blocking_portal

from bulkfetch.models import Row
from bulkfetch.queues import open_queue
from bulkfetch.queues.jetstream.setup import SHORTEST_ACK_WAIT
from bulkfetch.sandbox import Faults, Sandbox, SandboxSettings, serve
from bulkfetch.sandbox.invoices import Document, InvoiceBook
from bulkfetch.sources.queue.poison import MAX_DELIVERIES, SUSPECT
from support.nats_server import nats_server
from support.program import environment, impatient, until, write_ids
from support.queues import dead_letters, push, shorten_leases, stats

INVOICES = int(os.environ.get("BULKFETCH_TEST_INVOICES", "600"))
"""More of them make it a rehearsal: BULKFETCH_TEST_INVOICES=10000."""

PATIENCE = 200 + INVOICES // 10
WORKERS = 3
POISON = "poison"
SOON = {
    "sources.queue.source.PUT_OFF": 1.0,
    "sources.queue.poison.CROWDED_OUT": 1.0,
    "queues.jetstream.queue.ACK_TIMEOUT": 1.0,
}
"""What else is waited for: an invoice that is put off, one that does not have its turn, an answer that was lost."""

NOBODYS = [f"nobodys-{number}" for number in range(5)]
ACK_WAIT = SHORTEST_ACK_WAIT
"""The poison comes back when its lease ends, sixteen times."""

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
    environ: Mapping[str, str] = field(default_factory=dict)
    api: Sandbox | None = None

    def kill(self) -> None:
        """kill -9, now."""
        assert self.process
        os.kill(self.process.pid, signal.SIGKILL)

    def supervise(self) -> None:
        """Run workers one after the other, until one ends by itself, as what has no use in being started again."""
        with self.log.open("ab") as log:
            while not self.given_up:
                self.process = subprocess.Popen(
                    self.args, stdout=log, stderr=log, env=environment("sandbox", self.environ)
                )
                self.codes.append(self.process.wait())
                if self.codes[-1] in (0, 3):
                    return


class DeadlyBook(InvoiceBook):
    """A book in which one invoice is deadly to look up: for the worker of `station`."""

    def __init__(self, station: Station, count: int, seed: int, *, size: int) -> None:
        super().__init__(count, seed, size=size)
        self._station = station

    def find(self, invoice_id: str) -> Document | None:
        """The document with exactly this ID, or None."""
        if invoice_id == POISON:
            self._station.poisoned += 1
            self._station.kill()
        return super().find(invoice_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoned(SandboxSettings):
    """The API of one station."""

    station: Station

    def book(self) -> InvoiceBook:
        """A book that is deadly for the station."""
        return DeadlyBook(self.station, self.invoices, self.seed, size=self.size)


@contextmanager
def stations(
    folder: Path, queue: str, destination: object, expect: int, environ: Mapping[str, str]
) -> Iterator[list[Station]]:
    """The workers' places, each with an API that serves the same documents."""
    found = []
    with start_blocking_portal() as portal, ExitStack() as stack:
        for number in range(WORKERS):
            station = Station(number, folder / f"worker-{number}.log", environ=environ)
            settings = Poisoned(invoices=INVOICES, size=5_000, faults=FAULTS, record_requests=True, station=station)
            api = stack.enter_context(portal.wrap_async_context_manager(serve(settings)))
            more = ("--until-empty", "--idle", "1", "--expect", str(expect), "--workers", "16")
            station.args = impatient(SOON, "run", queue, "--to", destination, "--api-url", api.api_url, *more)
            station.api = api
            found.append(station)
        yield found
        for station in found:
            station.given_up = True
            if station.process and station.process.poll() is None:
                station.kill()


def all_ids() -> list[str]:
    """Every good invoice."""
    return list(SandboxSettings(invoices=INVOICES).book().ids())


async def wear(queue: str, times: int) -> None:
    """Take the poison, the only message so far, in hand so often, as workers would that died of it."""
    async with open_queue(queue, {}, notify=print) as opened:
        for _ in range(times):
            (lease,) = await opened.fetch(1, 5.0)
            await opened.nack(lease, 0.0)


def let_them_die(
    folder: Path, destination: object, stored: Callable[[], int], environ: Mapping[str, str], *, worn: int = 0
) -> str:
    """Work a queue off, into `destination`, in which `stored` counts the objects: one worker is killed at a third and
    stays dead, the broker is killed at a half and comes back, one invoice kills its workers again and again, the first
    `worn` times before all that. Checked is how workers and queue end; told is what it cost."""
    ids = all_ids()
    everything = [*ids[: INVOICES // 2], POISON, *NOBODYS, *ids[INVOICES // 2 :]]
    with nats_server() as broker:
        queue = broker.queue()
        assert push(write_ids(folder / "poison.txt", [POISON]), queue) == 1
        anyio.run(wear, queue, worn)
        assert push(write_ids(folder / "ids.txt", everything), queue) == len(everything) - 1
        anyio.run(shorten_leases, queue, ACK_WAIT)
        with stations(folder, queue, destination, len(everything), environ) as places:
            threads = [threading.Thread(target=place.supervise) for place in places]
            for thread in threads:
                thread.start()
            until(lambda: stored() > INVOICES / 3)
            places[0].given_up = True
            places[0].kill()
            until(lambda: stored() > INVOICES / 2)
            broker.kill()
            broker.start()
            for thread in threads:
                thread.join(timeout=PATIENCE)
                assert not thread.is_alive(), "a worker did not end"
            left, dead = stats(queue), dead_letters(queue)
            gets = sum((Counter(place.api.stats.gets) for place in places if place.api), Counter[str]())
    assert left == {"waiting": 0, "leased": 0, "dead": len(NOBODYS) + 1}
    assert {dead_letter: dead[dead_letter]["reason"] for dead_letter in dead} == {
        **dict.fromkeys(NOBODYS, "not_found"),
        POISON: "poison",
    }
    assert SUSPECT <= sum(place.poisoned for place in places) <= MAX_DELIVERIES - worn
    # 5: started while the broker was away.
    assert {code for place in places for code in place.codes} <= {-signal.SIGKILL, 0, 3, 5}
    assert [place.codes[-1] for place in places[1:]] == [3, 3], "the queue has dead letters, so no worker is complete"
    return (
        f"{INVOICES} invoices: {sum(map(len, (place.codes for place in places)))} worker lives, "
        f"downloads {sum(gets.values())} of {len(gets)} invoices, {sum(n > 1 for n in gets.values())} more than once"
    )


def counted(rows: list[Row]) -> dict[tuple[str, str | None], int]:
    """How many rows there are of each outcome and reason."""
    return dict(Counter((row.outcome.value, row.reason and row.reason.value) for row in rows))
