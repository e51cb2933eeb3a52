"""Faults on demand: how often what goes wrong, and the dice that decide it."""

import asyncio
import random
from dataclasses import dataclass

_SERVER_ERRORS = (500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Rates between 0 (never) and 1 (always), each drawn anew for every request.

    Attributes:
        errors: a 5xx, on the API and on downloads.
        throttle: a 429 with `Retry-After: 1` on the API, whatever the rate limit says.
        truncate: the connection is cut in the middle of a PDF.
        expire: the minted link is dead already.
        not_found: share of the IDs that the API never knows; always the same ones.
        not_pdf: a download answers 200 with XML.
        latency: seconds (not a rate) before every answer, give or take a half.
    """

    errors: float = 0.0
    throttle: float = 0.0
    truncate: float = 0.0
    expire: float = 0.0
    not_found: float = 0.0
    not_pdf: float = 0.0
    latency: float = 0.0


class Dice:
    """Draws the faults; the same seed gives the same sequence of draws."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self._random = random.Random(seed)

    def falls(self, rate: float) -> bool:
        """True in `rate` of all calls."""
        return rate > 0 and self._random.random() < rate

    def server_error(self) -> int | None:
        """The 5xx status that this request gets, if any."""
        return self._random.choice(_SERVER_ERRORS) if self.falls(self.faults.errors) else None

    async def wait(self) -> None:
        """Let the latency pass that this request gets."""
        if self.faults.latency > 0:
            await asyncio.sleep(self.faults.latency * self._random.uniform(0.5, 1.5))
