"""The command in a company's network: what it says of a proxy, and what it never shows."""

import pytest
from anyio.from_thread import start_blocking_portal
from support.connect_proxy import PASSWORD, connect_proxy
from support.program import bulkfetch, write_ids

API = "https://api.outside.example"


@pytest.fixture
def proxy():
    """A proxy that wants a password, and forbids everything."""
    proxy = connect_proxy({}, auth=True, status=403)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(proxy) as running:
        yield running


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_proxy_that_forbids_the_api_ends_the_run(tmp_path, proxy, log_format):
    """The run stops, resumable, and names the proxy's variable; the proxy's password is in nothing that is written."""
    source, dest = write_ids(tmp_path / "ids.txt", ["INV-1"]), tmp_path / "archive"
    flags = ("--to", dest, "--api-url", API, "-v", "--log-format", log_format)
    done = bulkfetch("run", source, *flags, HTTPS_PROXY=proxy.url)
    assert done.returncode == 5
    assert "the proxy (HTTPS_PROXY or api.proxy) refuses to connect there (HTTP 403)" in done.stderr
    assert set(proxy.targets) == {"api.outside.example:443"}
    written = "".join(path.read_text("utf-8", "replace") for path in dest.rglob("*") if path.is_file())
    assert PASSWORD not in done.stdout + done.stderr + written


def test_check_goes_the_same_way(tmp_path, proxy):
    """`check` asks through the proxy of the configuration, and a password in there is refused with its place."""
    done = bulkfetch("check", "--api-url", API, BULKFETCH_API_PROXY=f"http://127.0.0.1:{proxy.port}")
    assert "wants a user name and a password" in done.stdout + done.stderr
    done = bulkfetch("check", "--api-url", API, BULKFETCH_API_PROXY=proxy.url)
    assert done.returncode == 2
    assert "BULKFETCH_API_PROXY must be a proxy as http://host:port; a user name and a password go into" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
