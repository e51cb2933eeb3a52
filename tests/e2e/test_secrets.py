"""Neither the token nor a link's signature is anywhere but on its way to its own server."""

import hashlib
import re
from pathlib import Path

import pytest
from support.program import bulkfetch, ids_of, rows, sandbox, started, summary, until, write_ids

CANARY = "eyJCANARY.eyJzdWIiOiJ0ZXN0In0.c2lnbmF0dXJl"
FAULTS = {"errors": 0.1, "truncate": 0.2, "expire": 0.2, "not_found": 0.1, "not_pdf": 0.2}
DIGEST = re.compile(rb"[0-9a-f]{64}")


def from_environment(tmp_path: Path):
    return CANARY, ""


def from_file(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text(CANARY + "\n")
    file.chmod(0o600)
    return None, f'token_file = "{file}"'


def from_command(tmp_path: Path):
    # An empty variable is no token, but would still be inherited if it were not taken out.
    (tmp_path / "token").write_text(CANARY)
    script = f"tr '\\\\0' '\\\\n' < /proc/self/environ > {tmp_path}/environ; cat {tmp_path}/token"
    return "", f'token_command = ["/bin/sh", "-c", "{script}"]'


@pytest.mark.parametrize(
    ("place", "log_format"), [(from_environment, "text"), (from_file, "json"), (from_command, "json")]
)
def test_no_secret_is_told_or_written(tmp_path, place, log_format):
    """After a run with every kind of failure, told in full: neither is in stdout, stderr, or any file of the archive;
    the token was never in the command line, nor in the environment of the command that fetches it."""
    token, setting = place(tmp_path)
    with sandbox(invoices=60, faults=FAULTS, drafts=0.1, token=CANARY, seed=5) as served:
        config, dest = tmp_path / "c.toml", tmp_path / "archive"
        config.write_text(f'[api]\nurl = "{served.api_url}"\n{setting}\n')
        source = write_ids(tmp_path / "ids.txt", ids_of(served))
        args = ("run", source, "--to", dest, "-c", config, "-vv", "--log-format", log_format, "--json", "--attempts", 2)
        with started(*args, token=token) as process:
            cmdline = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            until(lambda: served.stats.links, process)
            cmdline += Path(f"/proc/{process.pid}/cmdline").read_bytes()
            out, err = process.communicate(timeout=40)
        assert process.returncode in (3, 4), err.decode()
        assert served.stats.unauthorized == served.stats.authorization_leaks == 0
        assert min(served.stats.expired, served.stats.truncated, served.stats.not_pdf, served.stats.errors_5xx) > 0
    assert {row.outcome for row in rows(dest)} == {"stored", "failed"}
    told = summary(dest)
    known = {row.sha256 for row in rows(dest)} | {told.manifest_sha256, told.input_sha256}
    # The head that a run prints: the digest of its summary.
    known |= {hashlib.sha256(path.read_bytes()).hexdigest() for path in (dest / "manifests").glob("*.json")}
    digests = {digest.encode() for digest in known if digest}
    written = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file() and path.suffix != ".pdf"}
    assert len(written) >= 4
    for where, data in {"stdout": out, "stderr": err, "cmdline": cmdline, **written}.items():
        assert CANARY.encode() not in data, where
        assert b"CANARY" not in data, where
        assert b"signature" not in data, where
        assert b"expires=" not in data, where
        # A signature has the form of a digest: each digest told must be a known one. (SQLite runs columns together.)
        if isinstance(where, str) or where.suffix == ".jsonl":
            assert set(DIGEST.findall(data)) <= digests, where
    if place is from_command:
        variables = (tmp_path / "environ").read_text()
        assert "PATH=" in variables
        assert "BULKFETCH_TOKEN" not in variables


def test_a_refused_token_is_not_told(tmp_path):
    """Also where the token itself is the trouble, it is not shown."""
    with sandbox(invoices=5) as served:
        source = write_ids(tmp_path / "ids.txt", ids_of(served))
        args = ("--to", tmp_path / "archive", "--api-url", served.api_url)
        done = bulkfetch("run", source, *args, "-vv", token=CANARY)
        checked = bulkfetch("check", *args, token=CANARY)
    assert (done.returncode, checked.returncode) == (5, 5)
    assert "CANARY" not in done.stdout + done.stderr + checked.stdout + checked.stderr
