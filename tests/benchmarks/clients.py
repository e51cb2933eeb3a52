"""bulkfetch and its peers as commands: what each one is told, and whether it is installed."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servers import HERE, PREFIX

BULKFETCH = Path(sys.executable).with_name("bulkfetch")
OURS = "bulkfetch"


@dataclass(frozen=True)
class Job:
    """What one run has to do: into `directory`, or into the bucket of that name.

    `urls` are ready-made links, for the clients that cannot ask for one.
    """

    ids: Path
    urls: Path
    directory: Path
    bucket: str
    api_url: str
    workers: int = 32


@dataclass(frozen=True)
class Client:
    """A client: `needs` is its program (with `module`, its Python module), and `install` tells how to get that."""

    name: str
    command: Callable[[Job], list[str]]
    needs: str
    install: str
    module: bool = False

    def missing(self) -> str | None:
        """How to install what is not there; None if it is."""
        found = importlib.util.find_spec(self.needs) if self.module else shutil.which(self.needs)
        return None if found else f"not installed ({self.install})"

    def version(self) -> str:
        """The version of what it is made of."""
        if self.module:
            return f"{self.needs} {importlib.metadata.version(self.needs)}"
        said = subprocess.run([self.needs, "--version"], capture_output=True, text=True, check=True).stdout
        return " ".join(said.splitlines()[0].replace(",", "").split()[:3])


def bulkfetch(job: Job, *flags: str) -> list[str]:
    """The installed command."""
    to = f"s3://{job.bucket}/{PREFIX}" if job.bucket else str(job.directory)
    own = () if job.workers == 32 else ("--workers", str(job.workers))
    return [str(BULKFETCH), "run", str(job.ids), "--to", to, "--api-url", job.api_url, *own, *flags]


def _naive(job: Job) -> list[str]:
    script = [sys.executable, str(HERE / "naive.py"), str(job.ids), str(job.directory), job.api_url]
    return [*script, "--workers", str(job.workers)]


def _curl(job: Job) -> list[str]:
    script = str(HERE / "curl_two_passes.sh")
    return ["sh", script, str(job.ids), str(job.directory), job.api_url, str(job.workers)]


def _parfive(job: Job) -> list[str]:
    return [sys.executable, str(HERE / "parfive_get.py"), str(job.urls), str(job.directory), str(job.workers)]


def _aria2c(job: Job) -> list[str]:
    limits = [f"--max-concurrent-downloads={job.workers}", "--split=1", "--max-tries=5", "--retry-wait=1"]
    plain = ["--no-conf", "--quiet", "--file-allocation=none", "--allow-overwrite"]
    return ["aria2c", *limits, *plain, "--dir", str(job.directory), "--input-file", str(job.urls)]


def _naive_s3(client: str) -> Callable[[Job], list[str]]:
    script = [sys.executable, str(HERE / "naive_s3.py"), "--client", client]
    return lambda job: [*script, str(job.ids), job.bucket, job.api_url]


_BULKFETCH = Client(OURS, bulkfetch, str(BULKFETCH), "pip install .")
_NAIVE = Client("naive script", _naive, "aiohttp", "pip install .", module=True)

TO_DISK = (
    _BULKFETCH,
    _NAIVE,
    Client("curl -Z, two passes", _curl, "curl", "apt install curl"),
    Client("parfive (no PUT)", _parfive, "parfive", "pip install parfive", module=True),
    Client("aria2c (no PUT)", _aria2c, "aria2c", "apt install aria2"),
)
TO_A_BUCKET = (
    _BULKFETCH,
    Client("aiobotocore script", _naive_s3("aiobotocore"), "aiobotocore", "pip install aiobotocore", module=True),
    Client("boto3 script", _naive_s3("boto3"), "boto3", "pip install boto3", module=True),
)
BY_RATE = (_BULKFETCH, _NAIVE)
"""The others can neither keep a rate nor read the sandbox's answers."""
