"""A real NATS server with JetStream on loopback for the tests."""

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

HOST = "127.0.0.1"
START_SECONDS = 10.0


class NatsServer:
    """One server with its own storage, which outlives a kill; started by `running`."""

    def __init__(self, folder: Path, args: Sequence[str], host: str, *, jetstream: bool) -> None:
        self.port = -1
        self._host = host
        self._folder = folder
        self._args = [*(["-js", "-sd", str(folder / "store")] if jetstream else []), *args]
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    @property
    def address(self) -> str:
        """host:port."""
        return f"{HOST}:{self.port}"

    def queue(self, scheme: str = "nats", host: str = HOST) -> str:
        """The URL of a stream that is not there yet."""
        return f"{scheme}://{host}:{self.port}/invoices-{next(self._numbers)}"

    def start(self) -> None:
        """Start it; once more after a kill, on the same port and storage."""
        executable = Path(sysconfig.get_path("scripts")) / "nats-server"
        command: list[str | Path] = [executable, "-a", self._host, "-p", str(self.port)]
        command += ["--ports_file_dir", self._folder, "-l", self._folder / "log", *self._args]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ports = self._folder / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + START_SECONDS
        while not ports.exists() or not ports.read_text().endswith("}"):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the NATS server did not start"
            time.sleep(0.005)
        self.port = int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])

    def kill(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """kill -9, or end it with another signal."""
        self._send(signum)
        assert self._process
        self._process.wait()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, from the return on."""
        self._send(signal.SIGSTOP)
        assert self._process
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """It goes on."""
        self._send(signal.SIGCONT)

    def _send(self, signum: signal.Signals) -> None:
        assert self._process
        if self._process.poll() is None:
            os.kill(self._process.pid, signum)


@contextmanager
def nats_server(*args: str, config: str = "", host: str = HOST, jetstream: bool = True) -> Iterator[NatsServer]:
    """A server, started with the further arguments `args` or the text of a configuration file, killed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="nats-"))
    if config:
        (folder / "config").write_text(config)
        args = (*args, "-c", str(folder / "config"))
    server = NatsServer(folder, args, host, jetstream=jetstream)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """A server for all tests that leave it alone."""
    with nats_server() as server:
        yield server
