"""The installed command as a process beside a sandbox in this one, and what it leaves behind."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from anyio.from_thread import start_blocking_portal

from bulkfetch.manifest import decode_row, list_runs, read_rows, read_summary
from bulkfetch.models import Outcome, Row, Summary
from bulkfetch.sandbox import Faults, Sandbox, SandboxSettings, serve
from bulkfetch.sandbox.pdf import render

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

PATIENCE = 40.0
"""Seconds after which a process that has not done what is waited for is taken to hang."""

QUICK = {"BULKFETCH_RETRY_WAIT_INITIAL": "0.01", "BULKFETCH_RETRY_WAIT_MAX": "0.05"}
"""Settings that keep waits short, so that a failing server costs no time."""


@contextmanager
def sandbox(
    *, invoices: int = 60, size: int = 5_000, faults: Mapping[str, float] | None = None, **settings: Any
) -> Iterator[Sandbox]:
    """A running sandbox that records its requests."""
    chosen = SandboxSettings(
        invoices=invoices, size=size, faults=Faults(**(faults or {})), record_requests=True, **settings
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve(chosen)) as running:
        yield running


@asynccontextmanager
async def _answering(handler: Handler) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@contextmanager
def http_server(handler: Handler) -> Iterator[str]:
    """A server of one's own that answers every request by `handler`; its URL."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_answering(handler)) as url:
        yield url


def environment(token: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings, with `token` and the given variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BULKFETCH_")}
    return {**clean, **QUICK, **({} if token is None else {"BULKFETCH_TOKEN": token}), **environ}


def command(*args: object) -> list[str]:
    """The command line of the installed program."""
    return [sys.executable, "-m", "bulkfetch", *map(str, args)]


_WITH_CONSTANTS = """
import importlib, json, sys
for name, value in json.loads(sys.argv.pop(1)).items():
    module, _, constant = name.rpartition(".")
    assert hasattr(importlib.import_module(module), constant), name
    setattr(importlib.import_module(module), constant, value)
from bulkfetch.cli import main
main()
"""


def impatient(constants: Mapping[str, float], *args: object) -> list[str]:
    """The same, with times that are no setting made shorter: `constants` by module and name."""
    told = {f"bulkfetch.{name}": value for name, value in constants.items()}
    return [sys.executable, "-c", _WITH_CONSTANTS, json.dumps(told), *map(str, args)]


def bulkfetch(
    *args: object,
    token: str | None = "sandbox",
    stdin: bytes = b"",
    cwd: Path | None = None,
    constants: Mapping[str, float] | None = None,
    **environ: str,
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end; output is text."""
    line = impatient(constants, *args) if constants else command(*args)
    done = subprocess.run(
        line, input=stdin, capture_output=True, timeout=PATIENCE, env=environment(token, environ), cwd=cwd
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def started(*args: object, token: str | None = "sandbox", **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program, running, its standard input open; killed at the end if it still is."""
    pipe, env = subprocess.PIPE, environment(token, environ)
    with subprocess.Popen(command(*args), stdin=pipe, stdout=pipe, stderr=pipe, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until `true` is; a `process` that ends meanwhile is an error."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        if process is not None and process.poll() is not None:
            assert process.stderr
            raise AssertionError(f"ended with {process.returncode}: {process.stderr.read().decode()}")
        time.sleep(0.005)


def write_ids(file: Path, ids: Sequence[str]) -> Path:
    """A plain list of `ids`."""
    file.write_text("".join(f"{invoice_id}\n" for invoice_id in ids))
    return file


def ids_of(running: Sandbox) -> list[str]:
    """Every ID of the sandbox's book."""
    return list(running.book.ids())


def pdf_of(running: Sandbox, invoice_id: str) -> bytes:
    """The bytes that the sandbox serves for an invoice."""
    document = running.book.find(invoice_id)
    assert document
    return render(document)


def objects(root: Path) -> dict[str, bytes]:
    """What is in the archive, by key; the archive's own files left out."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in (".bulkfetch", "manifests")
    }


def rows(root: Path, run: int = -1) -> list[Row]:
    """The manifest rows of one run, the last one unless told otherwise."""
    manifest = list_runs(root)[run].manifest
    return [row for block, _ in read_rows(manifest) for row in block] if manifest else []


def all_rows(root: Path) -> list[Row]:
    """The whole rows of all runs, those that died included."""
    lines = [
        line
        for run in list_runs(root)
        if run.manifest
        for line in run.manifest.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    return [decode_row(line) for line in lines]


def summary(root: Path) -> Summary:
    """The last run's summary, once it is known to account for each of its rows."""
    run = list_runs(root)[-1]
    assert run.summary, "the run left no summary"
    assert run.manifest
    found = read_summary(run.summary)
    assert found.counts.balanced()
    assert found.manifest_rows == found.counts.read == len(rows(root))
    assert found.manifest_sha256 == hashlib.sha256(run.manifest.read_bytes()).hexdigest()
    return found


def assert_sound(root: Path) -> None:
    """Each row `stored`, of whatever run, names an object with exactly its size and SHA-256."""
    held = objects(root)
    for row in all_rows(root):
        if row.outcome == "stored":
            assert row.key in held
            assert (row.size, row.sha256) == (len(held[row.key]), hashlib.sha256(held[row.key]).hexdigest())


def stored_once(archive: Path, ids: Sequence[str]) -> None:
    """Each of `ids` has one object and one row `stored`; what was done twice says so."""
    assert_sound(archive)
    assert set(objects(archive)) == {f"{invoice_id}.pdf" for invoice_id in ids}
    stored = Counter(row.invoice_id for row in all_rows(archive) if row.outcome is Outcome.STORED)
    assert stored == Counter(ids)
