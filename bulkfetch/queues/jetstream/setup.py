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
"""Seconds after which the message of a dead worker comes back. A living worker extends its lease in time."""

SHORTEST_ACK_WAIT = 1.0

_EDIT = "nats stream edit"
_ANOTHER_NAME = "take another name in the URL (nats://host:4222/NAME)"

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")


class StreamNames:
    """What the parts of the queue `stream` are called on the server."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.dead = f"{stream}_dead"
        self.state = f"{stream}_state"
        self.releases = f"{stream}_releases"
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
    for stream, wrong_for_it in ((names.stream, _wrong_queue), (names.dead, _wrong_dead)):
        try:
            config = (await js.stream_info(stream)).config
        except NotFoundError:
            raise FatalError(
                f"there is no stream {stream}: feed the queue first (bulkfetch queue push), which makes it"
            ) from None
        if wrong := wrong_for_it(config, names) or _lossy(config):
            raise FatalError(f"the stream {stream} cannot be used: {wrong}")


def _wrong_queue(config: StreamConfig, names: StreamNames) -> str | None:
    if foreign := _uncovered(config, names.subjects):
        return foreign
    if config.retention != RetentionPolicy.WORK_QUEUE:
        return (
            "its retention is not workqueue, so what is done would stay queued; a stream's retention cannot be "
            f"changed: {_ANOTHER_NAME}, which bulkfetch queue push makes"
        )
    limit = config.max_msgs_per_subject
    if limit > 0 and not (config.discard == DiscardPolicy.NEW and config.discard_new_per_subject):
        return (
            f"max_msgs_per_subject is {limit}, over which it drops the older messages unseen; set discard to new and "
            f"discard_new_per_subject ({_EDIT} {names.stream} --discard=new --discard-per-subject)"
        )
    return None


def _wrong_dead(config: StreamConfig, names: StreamNames) -> str | None:
    if foreign := _uncovered(config, names.dead_subjects):
        return foreign
    if config.retention != RetentionPolicy.LIMITS:
        return (
            "its retention is not limits, so dead letters would vanish unread; a stream's retention cannot be "
            f"changed: {_ANOTHER_NAME}, which bulkfetch queue push makes"
        )
    if config.max_msgs_per_subject != 1 or config.discard_new_per_subject:
        return (
            "an invoice's dead letter would not replace the one before; set max_msgs_per_subject to 1 and "
            f"discard_new_per_subject to false ({_EDIT} {names.dead} --max-msgs-per-subject=1)"
        )
    return None


def _uncovered(config: StreamConfig, needed: str) -> str | None:
    """Says what is wrong if messages published on `needed` do not come into the stream."""
    if any(_covers(subject, needed) for subject in config.subjects or ()):
        return None
    subjects = ",".join([*(config.subjects or ()), needed])
    return (
        f"it is somebody else's, as {needed} is not among its subjects: {_ANOTHER_NAME}; only if it was made for "
        f"bulkfetch, add the subject ({_EDIT} {config.name} --subjects='{subjects}')"
    )


def _covers(subject: str, needed: str) -> bool:
    """Whether the pattern `subject` takes in all that `needed`, which ends in one `*`, does."""
    ours, theirs = needed.split("."), subject.split(".")
    if theirs[-1] == ">":
        theirs, ours = theirs[:-1], ours[: len(theirs) - 1]
    return len(theirs) == len(ours) and all(their in ("*", our) for their, our in zip(theirs, ours, strict=True))


def _lossy(config: StreamConfig) -> str | None:
    edit = f"{_EDIT} {config.name}"
    if config.max_age:
        return (
            f"max_age is {config.max_age:g} s, after which it drops messages unseen; set it to 0 ({edit} --max-age=0)"
        )
    bounded = (config.max_msgs or 0) > 0 or (config.max_bytes or 0) > 0
    if bounded and config.discard != DiscardPolicy.NEW:
        return (
            "max_msgs or max_bytes bounds it, and it discards the oldest messages unseen; set discard to new "
            f"({edit} --discard=new)"
        )
    if config.storage == StorageType.MEMORY:
        return (
            "its storage is memory, which a restart of the server empties; a stream's storage cannot be changed: "
            f"{_ANOTHER_NAME}, which bulkfetch queue push makes"
        )
    if config.no_ack:
        return f"no_ack is set, so nobody learns whether a message was stored; unset it ({edit} --ack)"
    return None


async def ensure_consumer(js: JetStreamContext, names: StreamNames) -> float:
    """Make the consumer that all workers share, unless it is there; its lease in seconds.

    Raises:
        FatalError: the consumer that is there is set up so that invoices get stuck.
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
    if wrong := _sticky(config, names):
        raise FatalError(
            f"the consumer {CONSUMER} of the stream {names.stream} cannot be used: {wrong}; remove it, and the next "
            f"worker makes it anew: nats consumer rm {names.stream} {CONSUMER}"
        )
    return config.ack_wait or ACK_WAIT


def _sticky(config: ConsumerConfig, names: StreamNames) -> str | None:
    """What is wrong with a consumer by which invoices get stuck."""
    filters = config.filter_subjects or ([config.filter_subject] if config.filter_subject else [])
    if config.deliver_subject:
        return "it is a push consumer"
    if config.ack_policy != AckPolicy.EXPLICIT:
        return "ack_policy is not explicit"
    if (config.max_deliver or -1) != -1:
        return f"max_deliver is {config.max_deliver}, so messages would get stuck in the stream"
    if config.backoff:
        return "backoff is set, which shortens or lengthens leases"
    if (config.ack_wait or ACK_WAIT) < SHORTEST_ACK_WAIT:
        return f"ack_wait is {config.ack_wait:g} s, too short to be kept"
    if config.headers_only:
        return "headers_only is set, so messages would come without their invoice"
    if filters and not any(_covers(subject, names.subjects) for subject in filters):
        return f"its filter leaves out {names.subjects}"
    return None
