"""What the clients talk to, all on loopback: an API with its download host, the sandbox, and two kinds of bucket."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import cpu_of, environment
from static_server import pdf_of

HERE = Path(__file__).parent
HOST = "127.0.0.1"
START_SECONDS = 10.0
PREFIX = "archive"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

# One worker, and everything below the prefix: it needs no rights, and leaves nothing outside.
_NGINX_CONFIG = """
daemon off; master_process off; pid nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; default_type application/pdf;
    client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    server {{
        listen {host}:{port} backlog=1024;
        location / {{ root {root}; try_files /invoice.pdf =404; }}
        location ~ ^/invoices/([^/]+)/download-link$ {{
            default_type application/json;
            return 200 '{{"url":"http://{host}:{port}/$1"}}';
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Api:
    """A running API: where it is, what it is called, and its process."""

    name: str
    url: str
    pid: int

    def cpu(self) -> float:
        """Seconds of user and system CPU so far."""
        return cpu_of(self.pid)


@contextmanager
def static_api(size: int, *flags: str) -> Iterator[Api]:
    """The server of `static_server.py`, with PDFs of `size` bytes."""
    command = [sys.executable, str(HERE / "static_server.py"), "--size", str(size), *flags]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Api("static_server.py", f"http://{HOST}:{int(process.stdout.readline())}", process.pid)
        finally:
            process.terminate()


@contextmanager
def fastest_api(size: int, work: Path) -> Iterator[Api]:
    """nginx where it is installed, else `static_server.py`, with PDFs of `size` bytes."""
    if NGINX is None:
        with static_api(size) as api:
            yield api
        return
    root = Path(tempfile.mkdtemp(dir=work, prefix="nginx-"))
    # Its worker may run as another user.
    for directory in (work, root):
        directory.chmod(0o755)
    (root / "invoice.pdf").write_bytes(pdf_of(size))
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    (root / "nginx.conf").write_text(_NGINX_CONFIG.format(host=HOST, port=port, root=root))
    with subprocess.Popen([NGINX, "-p", str(root), "-c", "nginx.conf", "-e", "stderr"]) as process:
        try:
            _wait_for(port)
            yield Api("nginx", f"http://{HOST}:{port}", process.pid)
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing listens on port {port}") from None
            time.sleep(0.02)
        else:
            return


class Sandbox:
    """A running `bulkfetch sandbox`, which keeps a rate of links."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self._process = process
        self.url = url

    def end(self) -> int:
        """Stop it, and tell how many requests for a link it has refused."""
        self._process.send_signal(signal.SIGINT)
        said, _ = self._process.communicate(timeout=START_SECONDS)
        found = re.search(r"refused 429 (\d+)", said)
        return int(found[1]) if found else 0


@contextmanager
def sandbox(bulkfetch: Path, ids: Path, count: int, size: int, rate: int) -> Iterator[Sandbox]:
    """A sandbox of `count` invoices, whose IDs it writes to `ids`, that mints `rate` links a second."""
    options = {"--port": 0, "--invoices": count, "--size": size, "--rate-limit": rate, "--ids": ids}
    command = [str(bulkfetch), "sandbox", *(str(word) for option in options.items() for word in option)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"API +(http://\S+)", line):
                    yield Sandbox(process, found[1])
                    break
        finally:
            if process.poll() is None:
                process.kill()


@dataclass(frozen=True)
class Bucket:
    """A new bucket: its name, what a client has to have in its environment, and the SeaweedFS client that lists it."""

    name: str
    server: Any

    @property
    def environ(self) -> Mapping[str, str]:
        """Where a client finds the server, and nothing of who runs this."""
        nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        return {**self.server.environ, **nowhere}

    def pdfs(self, size: int) -> int:
        """How many invoices of `size` bytes are in it."""
        found: int = 0
        query = {"list-type": "2", "prefix": f"{PREFIX}/"}
        while True:
            page = self.server.request("GET", f"/{self.name}", query)
            listed = zip(page.texts("Key"), page.texts("Size"), strict=True)
            found += sum(key.endswith(".pdf") and int(stored) == size for key, stored in listed)
            following = page.texts("NextContinuationToken")
            if page.texts("IsTruncated") != ["true"] or query.get("continuation-token") == following[0]:
                return found
            query["continuation-token"] = following[0]


def _seaweed() -> Any:
    sys.path.insert(0, str(HERE.parent))
    from support import seaweed

    return seaweed


@contextmanager
def seaweedfs(work: Path) -> Iterator[Bucket]:
    """A SeaweedFS for one run: what others have put into it is no part of the cost."""
    with ExitStack() as stack:
        server = _seaweed()._started(stack, Path(tempfile.mkdtemp(dir=work, prefix="seaweedfs-")))
        yield Bucket(server.bucket(), server)


@contextmanager
def null_bucket(_: Path) -> Iterator[Bucket]:
    """A server that keeps no invoice, for one run: what a client spends there is the client's own."""
    command = [sys.executable, str(HERE / "null_s3.py")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            server = _seaweed().Seaweed(int(process.stdout.readline()))
            yield Bucket(server.bucket(), server)
        finally:
            process.terminate()


def missing_bucket() -> str | None:
    """What is not installed of that which starts and lists buckets."""
    try:
        _seaweed()
    except ImportError as error:
        return f"{error.name} (pip install '.[test]')"
    return None


@dataclass(frozen=True)
class BucketKind:
    """What a kind of bucket is called in a title, and how it is started in a directory."""

    title: str
    server: Callable[[Path], AbstractContextManager[Bucket]]


BUCKETS = {
    "null-s3": BucketKind("a server that keeps nothing", null_bucket),
    "seaweedfs": BucketKind("SeaweedFS", seaweedfs),
}
