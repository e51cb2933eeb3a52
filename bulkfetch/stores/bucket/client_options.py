"""What obstore's HTTP client is told: its bounds, its proxy and whom it trusts. It reads nothing of that by itself."""

from datetime import timedelta
from typing import TYPE_CHECKING

from yarl import URL

from bulkfetch.net.egress import Egress
from bulkfetch.net.no_proxy import OF_THIS_MACHINE

if TYPE_CHECKING:  # obstore's typed dictionaries exist for type checkers only
    from obstore.store import ClientConfig

_CONNECT_TIMEOUT = timedelta(seconds=10)
# Without a proxy of its own the client takes one from the process's environment: so it gets one that nothing goes to.
_NO_PROXY: "ClientConfig" = {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": "*,0.0.0.0/0,::/0"}


def client_options(egress: Egress, endpoint: str, timeout: timedelta) -> "ClientConfig":
    """The options for a client of `endpoint`, a URL; with "" each request decides. `timeout` bounds each. Blocks.

    Credentials may be asked for elsewhere: at the machine or its cloud directly, else through the proxy as well.
    """
    options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "timeout": timeout,
        "connect_timeout": _CONNECT_TIMEOUT,
        "default_content_type": "application/pdf",
        **_NO_PROXY,
    }
    proxy = egress.proxy_for(URL(endpoint)) if endpoint else egress.proxy
    if proxy is not None:
        options["proxy_url"] = proxy.secret_url
        options["proxy_excludes"] = ",".join([*OF_THIS_MACHINE, *egress.inside.hosts()])
    if egress.ca_file:
        options["proxy_ca_certificate"] = egress.ca_pem()
    return options
