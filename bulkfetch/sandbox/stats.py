"""What a sandbox has seen and sent."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Stats:
    """Plain counters, since the start.

    `downloads` are whole PDFs handed to the socket. `authorization_leaks` counts requests to the files port that
    carried an `Authorization` header. `puts` and `gets` count requests by invoice ID, but only if the settings ask to
    record them, as they grow with the input; they include requests that were refused.
    """

    links: int = 0
    unauthorized: int = 0
    refused_429: int = 0
    errors_5xx: int = 0
    not_found: int = 0
    unprocessable: int = 0
    downloads: int = 0
    truncated: int = 0
    not_pdf: int = 0
    expired: int = 0
    forged: int = 0
    authorization_leaks: int = 0
    puts: Counter[str] = field(default_factory=Counter)
    gets: Counter[str] = field(default_factory=Counter)

    def totals(self) -> dict[str, int]:
        """The counters by name, without those by invoice ID."""
        return {name: value for name in self.__slots__ if isinstance(value := getattr(self, name), int)}
