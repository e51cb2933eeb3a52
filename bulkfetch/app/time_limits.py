"""When a run has to end, by the clock on the wall or by its length."""

import time
from datetime import datetime, timedelta

import anyio

from bulkfetch.config import Limits
from bulkfetch.pipeline.stop import Interrupted, Stop

_LOOK = 20.0  # seconds between two looks at the wall clock, which can be set


def next_moment(until: str, now: datetime) -> datetime:
    """When a clock that shows `now` shows `until`, HH:MM, the next time: in the time zone of `now`, local if it has
    none."""
    hour, minute = map(int, until.split(":"))
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return moment if moment > now else moment + timedelta(days=1)


async def stop_in_time(limits: Limits, stop: Stop, *, began: float) -> None:
    """Request `stop` when the time that `limits` grants is over; it began at `began`, by the event loop's clock."""
    async with anyio.create_task_group() as tasks:
        if limits.max_duration:
            tasks.start_soon(_stop_after, limits.max_duration, began, stop)
        if limits.until:
            tasks.start_soon(_stop_at, limits.until, stop)


async def _stop_after(seconds: float, began: float, stop: Stop) -> None:
    await anyio.sleep_until(began + seconds)
    stop.request(Interrupted(f"{seconds:g} seconds are over (limits.max_duration)"))


async def _stop_at(until: str, stop: Stop) -> None:
    # Naive: the local time that people read off a clock, also in the night when it is set to summer time.
    moment = next_moment(until, datetime.now()).timestamp()  # noqa: DTZ005 - local on purpose
    while (left := moment - time.time()) > 0:  # noqa: ASYNC110 - no event tells that somebody sets the clock
        await anyio.sleep(min(left, _LOOK))
    stop.request(Interrupted(f"it is {until} (limits.until)"))
