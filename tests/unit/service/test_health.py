"""What a supervisor hears of a run: over HTTP when it asks, and by datagram when it is a service manager."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import aiohttp
import anyio
import anyio.lowlevel
import pytest

from bulkfetch.errors import FatalError, Reason, UsageError
from bulkfetch.events import OriginDown, OriginUp, RowsRecorded, RunStarted, RunStopping
from bulkfetch.models import Outcome, Row
from bulkfetch.service import health as health_module
from bulkfetch.service.health import Health, supervised

pytestmark = pytest.mark.anyio

STARTED = RunStarted("run", "nats://localhost/invoices", "/archive", None)
QUEUE_LOST = OriginDown("queue", 1.0, "no servers available")
QUEUE_BACK = OriginUp("queue")
KINDS = ["path", "abstract"]


def recorded(outcome: Outcome, reason: Reason | None = None) -> RowsRecorded:
    return RowsRecorded(
        [Row(run="run", invoice_id="INV-SECRET", outcome=outcome, reason=reason, started_at="", finished_at="")]
    )


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, bound: socket.socket, address: str) -> None:
        self.bound = bound
        self.address = address
        self.heard: list[str] = []

    def read(self) -> list[str]:
        """Everything heard so far, line by line."""
        while True:
            try:
                self.heard += self.bound.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.heard

    async def hears(self, line: str, *, times: int = 1) -> None:
        with anyio.fail_after(30):
            while self.read().count(line) < times:  # noqa: ASYNC110 - a socket of the kernel sets no event
                await anyio.sleep(0.005)


@contextmanager
def manager(kind, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        address = str(tmp_path / "notify") if kind == "path" else f"@bulkfetch-test-{os.getpid()}"
        bound.bind(address if kind == "path" else "\0" + address[1:])
        bound.setblocking(False)
        yield Manager(bound, address)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


async def asked(addr: str, path: str, method: str = "GET") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.request(method, f"http://{addr}{path}") as response:
        return response.status, (await response.text()).strip()


async def test_the_states_of_a_run():
    """Starting, ready, the queue out of reach and back, stopping: one word each; and stopping is final."""
    health = Health()
    assert health.why_not_ready() == "starting"
    health(QUEUE_BACK)
    assert health.why_not_ready() == "starting"
    health(STARTED)
    assert health.why_not_ready() is None
    health(OriginDown("api", 30.0, "429"))
    assert health.why_not_ready() is None
    health(QUEUE_LOST)
    assert health.why_not_ready() == "queue"
    health(OriginUp("api"))
    assert health.why_not_ready() == "queue"
    health(QUEUE_BACK)
    assert health.why_not_ready() is None
    health(RunStopping("interrupted by SIGTERM"))
    for event in (STARTED, QUEUE_LOST, QUEUE_BACK):
        health(event)
    assert health.why_not_ready() == "stopping"


async def test_the_status_counts_and_names_nothing():
    """Rows by outcome; outcomes without rows, and invoices, are left out."""
    health = Health()
    health(STARTED)
    assert health.status() == "ready"
    for _ in range(3):
        health(recorded(Outcome.STORED))
    health(recorded(Outcome.FAILED, Reason.NOT_FOUND))
    assert health.status() == "ready, 3 stored, 1 failed"
    health(QUEUE_LOST)
    assert health.status() == "queue out of reach, 3 stored, 1 failed"


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_service_manager_is_told(kind, tmp_path, monkeypatch):
    """READY=1 once, when the run is; counts while they change; STOPPING=1 once."""
    monkeypatch.setattr(health_module, "STATUS_EVERY", 0.02)
    health = Health()
    with manager(kind, tmp_path) as systemd:
        async with supervised(health, "", {"NOTIFY_SOCKET": systemd.address}):
            await systemd.hears("STATUS=starting")
            assert "READY=1" not in systemd.heard
            health(STARTED)
            await systemd.hears("READY=1")
            health(recorded(Outcome.STORED))
            await systemd.hears("STATUS=ready, 1 stored")
            health(QUEUE_LOST)
            await systemd.hears("STATUS=queue out of reach, 1 stored")
            health(QUEUE_BACK)
            await systemd.hears("STATUS=ready, 1 stored", times=2)
            await anyio.sleep(0.2)
            health.stopping()
            await systemd.hears("STATUS=stopping, 1 stored")
        told = systemd.read()
    assert [line for line in told if not line.startswith("STATUS=")] == ["READY=1", "STOPPING=1"]
    assert "WATCHDOG=1" not in told
    assert told.count("STATUS=ready, 1 stored") == 2, "what does not change is not told again"
    assert "INV-SECRET" not in "".join(told)


async def test_the_counts_wait_for_their_time(tmp_path):
    """A thousand rows are not a thousand datagrams; a change of the state is told at once."""
    health = Health()
    with manager("path", tmp_path) as systemd:
        async with supervised(health, "", {"NOTIFY_SOCKET": systemd.address}):
            health(STARTED)
            await systemd.hears("READY=1")
            for _ in range(1000):
                health(recorded(Outcome.STORED))
                await anyio.lowlevel.checkpoint()
            assert "STATUS=ready" in systemd.read()[-1]
            health.stopping()
            await systemd.hears("STOPPING=1")
        assert len(systemd.read()) <= 6


async def test_a_run_of_no_time_was_ready_all_the_same(tmp_path):
    """A manager that is never told READY=1 would take a quick run for one that failed to start."""
    health = Health()
    with manager("path", tmp_path) as systemd:
        async with supervised(health, "", {"NOTIFY_SOCKET": systemd.address}):
            health(STARTED)
        assert systemd.read() == ["READY=1", "STOPPING=1", "STATUS=stopping"]


@pytest.mark.parametrize("pid", [None, "", "own"])
async def test_the_watchdog_hears_of_a_live_loop(pid, tmp_path):
    """WATCHDOG=1 comes at half the time that the manager waits for it."""
    environ = {"WATCHDOG_USEC": "200000"} | ({} if pid is None else {"WATCHDOG_PID": str(os.getpid()) if pid else ""})
    with manager("path", tmp_path) as systemd:
        async with supervised(Health(), "", {"NOTIFY_SOCKET": systemd.address, **environ}):
            began = anyio.current_time()
            await systemd.hears("WATCHDOG=1", times=5)
            assert anyio.current_time() - began > 0.35
        heard = systemd.read().count("WATCHDOG=1")
        await anyio.sleep(0.25)
        assert systemd.read().count("WATCHDOG=1") == heard


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {},
    ],
)
async def test_a_watchdog_that_is_not_ours(environ, tmp_path):
    """Another process's watchdog, or none, gets nothing."""
    with manager("path", tmp_path) as systemd:
        async with supervised(Health(), "", {"NOTIFY_SOCKET": systemd.address, **environ}):
            await anyio.sleep(0.2)
        assert "WATCHDOG=1" not in systemd.read()


async def test_a_child_process_does_not_inherit_the_socket(tmp_path, monkeypatch):
    """A token command must not be able to speak for the run."""
    with manager("path", tmp_path) as systemd:
        for name, value in (("NOTIFY_SOCKET", systemd.address), ("WATCHDOG_USEC", "1"), ("WATCHDOG_PID", "1")):
            monkeypatch.setenv(name, value)
        async with supervised(Health(), "", os.environ):
            show = "import os; print([name for name in os.environ if name.startswith(('NOTIFY', 'WATCHDOG'))])"
            done = await anyio.run_process([sys.executable, "-c", show], stderr=subprocess.PIPE)
        assert done.stdout.decode().strip() == "[]"
        assert "STOPPING=1" in systemd.read()


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody", "/" + "x" * 200, "vsock:2:1", "relative", ""])
async def test_a_socket_that_is_not_there_hurts_nobody(address):
    """The run goes on as without one."""
    health = Health()
    async with supervised(health, "", {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}):
        health(STARTED)
        await anyio.sleep(0.05)
    assert health.why_not_ready() == "stopping"


async def test_a_socket_that_goes_and_comes_back(tmp_path, monkeypatch):
    """What could not be delivered is told as soon as somebody listens."""
    monkeypatch.setattr(health_module, "STATUS_EVERY", 0.02)
    health = Health()
    async with supervised(health, "", {"NOTIFY_SOCKET": str(tmp_path / "notify")}):
        health(STARTED)
        await anyio.sleep(0.1)
        with manager("path", tmp_path) as systemd:
            await systemd.hears("READY=1")
    assert health.why_not_ready() == "stopping"


async def test_a_manager_that_reads_nothing_does_not_block(tmp_path, monkeypatch):
    """Its buffer fills up, and the event loop runs on."""
    monkeypatch.setattr(health_module, "STATUS_EVERY", 0.0001)
    health = Health()
    with manager("path", tmp_path) as systemd, anyio.fail_after(10):
        async with supervised(health, "", {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100"}):
            health(STARTED)
            for _ in range(300):
                health(recorded(Outcome.STORED))
                await anyio.sleep(0.0002)


async def test_the_endpoint_follows_the_run():
    """/livez is 200 throughout; /readyz says with one word why it is 503."""
    health, addr = Health(), free_address()
    async with supervised(health, addr, {}):
        assert await asked(addr, "/livez") == (200, "ok")
        assert await asked(addr, "/readyz") == (503, "starting")
        health(STARTED)
        assert await asked(addr, "/readyz") == (200, "ok")
        health(QUEUE_LOST)
        assert await asked(addr, "/readyz") == (503, "queue")
        assert await asked(addr, "/livez?verbose") == (200, "ok")
        health(QUEUE_BACK)
        assert await asked(addr, "/readyz") == (200, "ok")
        health.stopping()
        assert await asked(addr, "/readyz") == (503, "stopping")
        assert await asked(addr, "/livez") == (200, "ok")
    with pytest.raises(aiohttp.ClientConnectionError):
        await asked(addr, "/livez")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/metrics", 404),
        ("GET", "/livez/", 404),
        ("POST", "/livez", 405),
        ("HEAD", "/readyz", 405),
        ("DELETE", "/readyz", 405),
    ],
)
async def test_nothing_else_is_answered(method, path, status):
    """Two paths, one method."""
    addr = free_address()
    async with supervised(Health(), addr, {}):
        assert (await asked(addr, path, method))[0] == status


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_an_answer_names_no_version_and_is_not_logged(request_bytes, caplog, capfd):
    """Neither bulkfetch's nor Python's nor the server's; what strangers send leaves no trace on stderr."""
    health, addr = Health(), free_address()
    health(recorded(Outcome.STORED))
    host, _, port = addr.partition(":")
    async with supervised(health, addr, {}), await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(request_bytes)
        answer = b""
        with anyio.fail_after(10):
            async for some in stream:
                answer += some
    assert answer.startswith(b"HTTP/1.")
    assert b"Server: bulkfetch\r\n" in answer
    for word in (b"Python", b"aiohttp/", b"0.1", b"INV-", b"Traceback"):
        assert word not in answer
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("addr", ["192.0.2.1:8080", "nowhere.invalid:8080", "x" * 64 + ":8080"])
async def test_an_address_that_cannot_be_bound(addr):
    """It is an error of usage that names the setting, and says it once."""
    with pytest.raises(UsageError, match=r"^service\.health_addr: .* cannot be bound: ") as caught:
        async with supervised(Health(), addr, {}):
            pass
    assert str(caught.value).count(addr) == 1


async def test_an_address_that_is_taken():
    """Two workers on one address: the second one says so."""
    addr = free_address()
    async with supervised(Health(), addr, {}):
        with pytest.raises(UsageError, match="Address already in use"):
            async with supervised(Health(), addr, {}):
                pass


async def test_what_ends_the_run_comes_through_as_it_is(tmp_path):
    """Callers know a failure by its type, so it is not wrapped; and the manager hears of the end."""
    with manager("path", tmp_path) as systemd:
        with pytest.raises(FatalError, match="disk full"):
            async with supervised(Health(), free_address(), {"NOTIFY_SOCKET": systemd.address}):
                raise FatalError("disk full")
        assert systemd.read()[-2:] == ["STOPPING=1", "STATUS=stopping"]


async def test_a_cancelled_run_leaves_no_task_behind(tmp_path):
    """Cancellation ends server and reports as well."""
    with manager("path", tmp_path) as systemd:
        environ = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100000"}
        with anyio.CancelScope() as scope:
            async with supervised(Health(), free_address(), environ):
                await systemd.hears("WATCHDOG=1")
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert "STOPPING=1" in systemd.read()
        heard = len(systemd.read())
        await anyio.sleep(0.2)
        assert len(systemd.read()) == heard


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
async def test_an_ipv6_address():
    """[::1]:port, as in a URL."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
            addr = f"[::1]:{server.getsockname()[1]}"
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with supervised(Health(), addr, {}):
        assert await asked(addr, "/livez") == (200, "ok")
