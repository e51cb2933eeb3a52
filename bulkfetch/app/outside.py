"""The way out of this network, as configuration and environment give it."""

from collections.abc import Mapping

from bulkfetch.config import Api
from bulkfetch.net.egress import CA_VARIABLE, PROXY_VARIABLE


def with_way_out(environ: Mapping[str, str], api: Api) -> Mapping[str, str]:
    """`environ`, in which `api.proxy` and `api.ca_file`, where they are set, stand in place of its own: each part takes
    these from the environment that it is given."""
    own = {PROXY_VARIABLE: api.proxy, CA_VARIABLE: api.ca_file}
    return {**environ, **{name: value for name, value in own.items() if value}}
