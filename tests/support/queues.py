"""A queue as tests fill it and look into it: in this process, which is quicker than the program's commands."""

import os
from pathlib import Path
from typing import Any

import anyio
import msgspec
import nats as nats_py

from bulkfetch.app.queue import list_dead_letters, queue_stats
from bulkfetch.models import DeadLetter, Delivery
from bulkfetch.queues import open_queue
from bulkfetch.queues.jetstream.setup import CONSUMER
from bulkfetch.sources.queue.message import encode_message

LEASE = 3.0
"""Seconds for tests in which a lease must end: the 30 s of a queue as it is made would only be waited for."""


def push(ids: Path, queue: str) -> int:
    """Feed the queue from a plain list; how many were new."""

    messages = [(each, encode_message(Delivery(each))) for each in ids.read_text().splitlines()]

    async def put() -> int:
        async with open_queue(queue, os.environ, notify=print, create=True) as opened:
            return await opened.put(messages)

    return anyio.run(put)


def stats(queue: str) -> dict[str, int]:
    """How many messages are in the queue: `waiting`, `leased`, `dead`."""
    found: dict[str, int] = msgspec.to_builtins(queue_stats(queue, environ={}, notify=print))
    return found


def dead_letters(queue: str) -> dict[str, dict[str, Any]]:
    """The dead letters, by ID: a second one of an ID is an error."""
    found: list[DeadLetter] = []
    list_dead_letters(queue, found.append, environ={}, notify=print)
    assert len({dead_letter.invoice_id for dead_letter in found}) == len(found)
    return {dead_letter.invoice_id: msgspec.to_builtins(dead_letter) for dead_letter in found}


async def shorten_leases(queue: str, seconds: float = LEASE) -> None:
    """Let what a worker held when it or the broker died come back soon."""
    address, _, stream = queue.rpartition("/")
    async with await nats_py.connect(address) as client:
        js = client.jetstream()
        config = (await js.consumer_info(stream, CONSUMER)).config
        await js.add_consumer(stream, config.evolve(ack_wait=seconds))
