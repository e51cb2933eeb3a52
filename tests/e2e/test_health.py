"""A run under supervision: a service manager on a socket, and an orchestrator that asks over HTTP."""

import queue
import signal
import socket
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from aiohttp import web
from support.program import QUICK, bulkfetch, http_server, ids_of, sandbox, started, summary, until, write_ids


class Manager:
    """What listens at NOTIFY_SOCKET. It reads all the time, as a real one does: the kernel holds ten datagrams, and
    a run that is heard too late loses what comes after them."""

    def __init__(self, bound):
        self._bound = bound
        self._lines = queue.SimpleQueue()
        self._heard = []

    def listen(self):
        """Read until an empty datagram comes."""
        while datagram := self._bound.recv(4096):
            self._lines.put(datagram.decode())

    def heard(self):
        """Everything heard so far, line by line."""
        while not self._lines.empty():
            self._heard += self._lines.get().split("\n")
        return self._heard

    def hears(self, line):
        """Whether `line` has come."""
        return line in self.heard()


@contextmanager
def service_manager(tmp_path):
    """A manager, and the variables that name it. What it has heard is complete when the block ends."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(path))
        manager = Manager(bound)
        listener = threading.Thread(target=manager.listen, daemon=True)
        listener.start()
        try:
            yield manager, {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000"}
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", str(path))
            listener.join(10)


def free_address():
    """A loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def asked(addr, path):
    """Status and body of a GET; None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{addr}{path}", timeout=5) as response:
            return response.status, response.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()
    except OSError:
        return None


def test_a_supervised_run_from_ready_to_its_end(tmp_path):
    """Ready and alive while it works; asked to end, it says so at once, and drains before it is gone."""
    addr, dest = free_address(), tmp_path / "archive"
    with (
        sandbox(invoices=400, faults={"latency": 1.0}) as served,
        service_manager(tmp_path) as (manager, environ),
    ):
        source = write_ids(tmp_path / "ids.txt", ids_of(served))
        args = ("run", source, "--to", dest, "--api-url", served.api_url, "--health-addr", addr)
        with started(*args, **environ) as run:
            until(lambda: manager.hears("READY=1"), run)
            assert asked(addr, "/readyz") == (200, "ok")
            assert asked(addr, "/livez") == (200, "ok")
            until(lambda: manager.hears("WATCHDOG=1"), run)
            until(lambda: served.stats.downloads > 0, run)
            assert not manager.hears("STOPPING=1")
            run.send_signal(signal.SIGTERM)
            until(lambda: manager.hears("STOPPING=1"), run)
            assert asked(addr, "/readyz") == (503, "stopping")
            assert asked(addr, "/livez") == (200, "ok")
            _, err = run.communicate(timeout=40)
        assert run.returncode == 143, err.decode()
        told = manager.heard()
    assert asked(addr, "/livez") is None
    assert b"Traceback" not in err, err.decode()
    assert b"GET /" not in err
    assert told.count("READY=1") == told.count("STOPPING=1") == 1
    stored = summary(dest).counts.stored
    assert stored > 0
    assert f"STATUS=stopping, {stored} stored" in told


def test_a_run_that_stops_by_itself_says_so(tmp_path):
    """A refused token ends the run: the manager hears STOPPING=1 and need not ask why from the outside."""

    async def refuse(request):
        return web.json_response({"title": "no"}, status=401)

    source = write_ids(tmp_path / "ids.txt", ["INV-1", "INV-2"])
    with http_server(refuse) as url, service_manager(tmp_path) as (manager, environ):
        done = bulkfetch("run", source, "--to", tmp_path / "archive", "--api-url", url, **environ)
        assert done.returncode == 5, done.stderr
    assert [line for line in manager.heard() if line in ("READY=1", "STOPPING=1")] == ["READY=1", "STOPPING=1"]


def test_a_complete_run_was_ready_and_stops(tmp_path):
    """Also one that is over in no time."""
    with sandbox(invoices=3) as served, service_manager(tmp_path) as (manager, environ):
        source = write_ids(tmp_path / "ids.txt", ids_of(served))
        done = bulkfetch("run", source, "--to", tmp_path / "archive", "--api-url", served.api_url, **environ)
        assert done.returncode == 0, done.stderr
    assert [line for line in manager.heard() if line in ("READY=1", "STOPPING=1")] == ["READY=1", "STOPPING=1"]
    assert manager.heard()[-1] == "STATUS=stopping, 3 stored"


def test_a_token_command_does_not_see_the_socket(tmp_path):
    """It runs before the run is ready, and could pretend that it is."""
    seen = tmp_path / "seen"
    command = f'["sh", "-c", "env > {seen}; echo sandbox"]'
    with sandbox(invoices=1) as served, service_manager(tmp_path) as (_, environ):
        source = write_ids(tmp_path / "ids.txt", ids_of(served))
        args = ("run", source, "--to", tmp_path / "archive", "--api-url", served.api_url)
        done = bulkfetch(*args, token=None, BULKFETCH_API_TOKEN_COMMAND=command, **environ)
    assert done.returncode == 0, done.stderr
    assert QUICK.keys() <= {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert not [line for line in seen.read_text().splitlines() if line.startswith(("NOTIFY_", "WATCHDOG_"))]


@pytest.mark.parametrize("addr", ["192.0.2.1:8080", "8080"])
def test_an_address_that_cannot_be_used_is_an_error_of_usage(tmp_path, addr):
    """Nothing is begun; the message names flag or key."""
    source = write_ids(tmp_path / "ids.txt", ["INV-1"])
    done = bulkfetch("run", source, "--to", tmp_path / "archive", "--health-addr", addr)
    assert done.returncode == 2
    assert "health_addr" in done.stderr.replace("--health-addr", "health_addr")
    assert not (tmp_path / "archive").exists()
