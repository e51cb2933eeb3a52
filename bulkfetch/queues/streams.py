"""The two streams of a queue and their consumer: how they are made, and what an existing one must be like.

A wrong setting loses invoices in silence (an age limit, a limit of deliveries), so it is refused, not worked around.
"""

import base64
import re

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from bulkfetch.errors import FatalError

CONSUMER = "bulkfetch"
ACK_WAIT = 30.0
"""Seconds after which the message of a worker that died comes back; one that lives extends it meanwhile."""

SHORTEST_ACK_WAIT = 1.0

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")


class StreamNames:
    """What the parts of the queue `stream` are called on the server."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.dead = f"{stream}_dead"
        self.state = f"{stream}_state"
        self.subjects = f"bulkfetch.{stream}.ids.*"
        self.dead_subjects = f"bulkfetch.{stream}.dead.*"

    def subject(self, invoice_id: str) -> str:
        """The subject of an invoice's message: one for each, so that the server refuses a second one."""
        return self.subjects[:-1] + _token(invoice_id)

    def dead_subject(self, invoice_id: str) -> str:
        """The subject of an invoice's dead letter: the last one replaces those before."""
        return self.dead_subjects[:-1] + _token(invoice_id)


def _token(invoice_id: str) -> str:
    """`invoice_id` as one token of a subject; no two IDs meet in one."""
    if _PLAIN.fullmatch(invoice_id):
        return invoice_id
    # "=" is in no plain ID. Base32, as tokens are compared by case and may be shown where case is lost.
    return "=" + base64.b32encode(invoice_id.encode("utf-8", "surrogatepass")).decode().rstrip("=").lower()


async def ensure_streams(js: JetStreamContext, names: StreamNames) -> None:
    """Make the streams that are missing.

    Raises:
        nats.errors.Error: the server refuses, or does not answer.
    """
    wanted = (
        StreamConfig(
            name=names.stream,
            subjects=[names.subjects],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            # An ID that is queued already is not queued again.
            max_msgs_per_subject=1,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
        ),
        StreamConfig(
            name=names.dead,
            subjects=[names.dead_subjects],
            storage=StorageType.FILE,
            max_msgs_per_subject=1,
            discard=DiscardPolicy.OLD,
        ),
    )
    for config in wanted:
        try:
            await js.stream_info(config.name or "")
        except NotFoundError:
            await js.add_stream(config)


async def check_streams(js: JetStreamContext, names: StreamNames) -> None:
    """See that the streams are there and lose nothing.

    Raises:
        FatalError: one is missing, or set up so that invoices could vanish; the message names setting and fix.
        nats.errors.Error: the server refuses, or does not answer.
    """
    for stream in (names.stream, names.dead):
        try:
            config = (await js.stream_info(stream)).config
        except NotFoundError:
            raise FatalError(
                f"there is no stream {stream}: feed the queue first (bulkfetch queue push), which makes it"
            ) from None
        wrong = _lossy(config)
        if stream == names.stream and config.retention != RetentionPolicy.WORK_QUEUE:
            wrong = "its retention is not workqueue, so what is done would stay queued"
        if wrong:
            raise FatalError(f"the stream {stream} cannot be used: {wrong}; mend it with: nats stream edit {stream}")


def _lossy(config: StreamConfig) -> str | None:
    if config.max_age:
        return f"max_age is {config.max_age:g} s, after which messages are dropped unseen"
    bounded = (config.max_msgs or 0) > 0 or (config.max_bytes or 0) > 0
    if bounded and config.discard != DiscardPolicy.NEW:
        return "it is bounded and discards the oldest messages unseen; set discard to new"
    if config.storage == StorageType.MEMORY:
        return "its storage is memory, which a restart of the server empties"
    return None


async def ensure_consumer(js: JetStreamContext, names: StreamNames) -> float:
    """Make the consumer that all workers share, unless it is there; its lease in seconds.

    Raises:
        FatalError: the one that is there is set up so that invoices get stuck.
        nats.errors.Error: the server refuses, or does not answer.
    """
    try:
        config = (await js.consumer_info(names.stream, CONSUMER)).config
    except NotFoundError:
        wanted = ConsumerConfig(
            durable_name=CONSUMER,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            # A message over a limit of deliveries is not dropped, it stays in the stream for ever, seen by nobody.
            max_deliver=-1,
            # Each worker asks for no more than it can take in hand.
            max_ack_pending=-1,
        )
        config = (await js.add_consumer(names.stream, wanted)).config
    wrong = None
    if config.ack_policy != AckPolicy.EXPLICIT:
        wrong = "ack_policy is not explicit"
    elif (config.max_deliver or -1) != -1:
        wrong = f"max_deliver is {config.max_deliver}, so messages would get stuck in the stream"
    elif config.deliver_subject:
        wrong = "it is a push consumer"
    elif (config.ack_wait or ACK_WAIT) < SHORTEST_ACK_WAIT:
        wrong = f"ack_wait is {config.ack_wait:g} s, too short to be kept"
    if wrong:
        raise FatalError(
            f"the consumer {CONSUMER} of the stream {names.stream} cannot be used: {wrong}; remove it, and the next "
            f"worker makes it anew: nats consumer rm {names.stream} {CONSUMER}"
        )
    return config.ack_wait or ACK_WAIT
