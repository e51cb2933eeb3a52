"""A real SQS server on loopback for the tests: ministack, in an environment of its own, as it pins botocore."""

import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

VERSION = "1.5.33"
SECRET_KEY = "not-a-secret-outside-of-the-tests"
ACCESS_KEY = "AKIALOOPBACKTESTS"
REGION = "us-east-1"
ACCOUNT = "000000000000"
INSTALL_SECONDS = 300.0
START_SECONDS = 20.0
STARTS = 2

_HOST = "127.0.0.1"
_TARGET = "AmazonSQS."


def aws_environ(endpoint: str) -> dict[str, str]:
    """What makes a client of AWS talk to `endpoint`, and to nobody else."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
    }


class Ministack:
    """The running server, with an SQS client of its own that shares no code with what is tested."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.environ = aws_environ(f"http://{_HOST}:{port}")
        self._numbers = count(1)

    def new_name(self) -> str:
        """The name of a queue that is not there yet."""
        return f"queue-{os.getpid()}-{next(self._numbers)}"

    def url(self, queue: str) -> str:
        """What SQS calls the queue."""
        return f"http://{_HOST}:{self.port}/{ACCOUNT}/{queue}"

    def call(self, operation: str, **parameters: object) -> dict[str, Any]:
        """Make one call, and see that it is answered with success."""
        status, answer = self.request(operation, **parameters)
        assert status == 200, (operation, status, answer)
        return answer

    def request(self, operation: str, **parameters: object) -> tuple[int, dict[str, Any]]:
        """Make one call; not signed, as the server does not look."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=20)
        headers = {"X-Amz-Target": f"{_TARGET}{operation}", "Content-Type": "application/x-amz-json-1.0"}
        try:
            connection.request("POST", "/", json.dumps(parameters), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"{}")
        finally:
            connection.close()


@pytest.fixture(scope="session")
def ministack(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One server for all tests; each takes queues of its own."""
    with ExitStack() as stack:
        yield start(stack, installed(pytestconfig), tmp_path_factory.mktemp("ministack"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install the server, if a test asks for it, before the time of any test begins to run."""
    if (
        any("ministack" in getattr(item, "fixturenames", ()) for item in session.items)
        and not session.config.option.collectonly
    ):
        installed(session.config)


def installed(config: pytest.Config) -> Path:
    """The interpreter of an environment that has the server; it is made once, and kept in pytest's cache."""
    root = config.cache.mkdir(f"ministack-{VERSION}-py{sys.version_info.major}{sys.version_info.minor}")
    python = root / "venv" / "bin" / "python"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "complete").exists():
            shutil.rmtree(root / "venv", ignore_errors=True)
            for command in (
                [sys.executable, "-m", "venv", root / "venv"],
                [python, "-m", "pip", "install", "--quiet", f"ministack=={VERSION}"],
            ):
                done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
                if done.returncode:
                    raise RuntimeError(f"ministack {VERSION} cannot be installed: {done.stderr[-1000:]}")
            (root / "complete").touch()
    return python


def start(stack: ExitStack, python: Path, root: Path) -> Ministack:
    """A server that runs until `stack` is closed."""
    for attempt in range(STARTS):
        directory = root / str(attempt)
        directory.mkdir()
        server = stack.enter_context(running(python, directory, free_port()))
        if server is not None:
            return server
    raise RuntimeError(f"ministack did not start: see {root}")


@contextmanager
def running(python: Path, directory: Path, port: int) -> Iterator[Ministack | None]:
    """A server on `port`; None if it does not come up. Its log is in `directory`."""
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "BIND_HOST": _HOST,
        "GATEWAY_PORT": str(port),
        "SERVICES": "sqs",
    }
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-m", "ministack"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=directory, env=environ
        )
    try:
        server = Ministack(port)
        yield server if _came_up(server, process) else None
    finally:
        process.kill()
        process.wait()


def _came_up(server: Ministack, process: subprocess.Popen[bytes]) -> bool:
    """Whether it answered in time."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if server.request("ListQueues")[0] == 200:
                return True
        except (OSError, http.client.HTTPException, ValueError):
            pass
        time.sleep(0.05)
    return False


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
