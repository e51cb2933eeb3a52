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
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
CACHE = Path(__file__).parents[2] / ".cache"
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
def ministack(ministack_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One server for all tests of a process; each takes queues of its own."""
    with ExitStack() as stack:
        yield start(stack, ministack_python, tmp_path_factory.mktemp("ministack"))


@pytest.fixture(scope="session")
def ministack_python() -> Path:
    """The interpreter that can run the server, for tests that start one of their own."""
    return installed()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Install the server, if this test is the first that asks for it, before the test's own time begins to run."""
    if "ministack_python" in getattr(item, "fixturenames", ()):
        with suppress(NotInstalled):  # the fixture meets it again, and fails the test for it
            installed()
    return (yield)


class NotInstalled(Exception):
    """The server cannot be had; the message says why."""


def installed() -> Path:
    """The interpreter of an environment that has the server. It is made once, and kept in `CACHE`: whoever comes
    meanwhile, as the other processes of the same test run do, waits for it.

    Raises:
        NotInstalled: pip could not do it.
    """
    root = CACHE / f"ministack-{VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    root.mkdir(parents=True, exist_ok=True)
    python = root / "venv" / "bin" / "python"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((root / "complete").exists() and python.exists()):
            shutil.rmtree(root / "venv", ignore_errors=True)
            _run(sys.executable, "-m", "venv", root / "venv")
            _run(python, "-m", "pip", "install", "--quiet", f"ministack=={VERSION}")
            (root / "complete").touch()
    return python


def _run(*command: str | Path) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=True)
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or str(error)
        raise NotInstalled(f"ministack {VERSION} cannot be installed: {said[-1000:]}") from None


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
