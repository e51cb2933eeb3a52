"""What is peculiar to Amazon SQS: its settings, its errors and its absence."""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import trustme
from support.connect_proxy import connect_proxy, tls_front
from support.edges import everything_said
from support.fault_server import FaultServer, Request, Steps, fault_server, reply
from support.ministack import ACCOUNT, SECRET_KEY, Ministack, aws_environ, free_port, running

from bulkfetch.errors import BulkfetchError, FatalError, TransientError, UsageError
from bulkfetch.events import Event, Note
from bulkfetch.models import DeadLetter, Lease, QueueStats
from bulkfetch.queues import open_queue
from bulkfetch.queues.sqs import client as sqs_client
from bulkfetch.queues.sqs.queue import SqsQueue
from bulkfetch.queues.sqs.setup import LEAST_RECEIVES
from bulkfetch.sources.queue.poison import MAX_DELIVERIES

pytestmark = pytest.mark.anyio

FOURTEEN_DAYS = "1209600"
CANARY = "c4n4ry-session-token"

Call = Callable[[SqsQueue], object]

DEAD_LETTER = DeadLetter(
    invoice_id="inv-1",
    reason="not_found",
    message=None,
    deliveries=1,
    failed_at="2026-01-01T00:00:00.000Z",
    run="run-1",
    body='{"id":"inv-1"}',
)
LEASE = Lease(b"inv-1", 1, "receipt", redelivered=False)
PUT = [("inv-1", b'{"id":"inv-1"}')]


@asynccontextmanager
async def opened(
    environ: dict[str, str], url: str = "sqs://q", *, create: bool = False, events: list[Event] | None = None
) -> AsyncIterator[SqsQueue]:
    notify = (events if events is not None else []).append
    async with open_queue(url, environ, notify=notify, create=create) as queue:
        assert isinstance(queue, SqsQueue)
        yield queue


async def refused(environ: dict[str, str], url: str = "sqs://q") -> FatalError:
    """The error of opening `url`; it comes soon, and with no secret in it."""
    with anyio.fail_after(20), pytest.raises(FatalError) as caught:
        async with opened(environ, url):
            pass
    assert_keeps_secrets(caught.value)
    return caught.value


def assert_keeps_secrets(error: BulkfetchError) -> None:
    said = everything_said(error)
    assert not [secret for secret in (SECRET_KEY, CANARY) if secret in said], said


# A server that answers as told


def answer(**fields: object) -> bytes:
    return reply(200, json.dumps(fields).encode(), {"Content-Type": "application/x-amz-json-1.0"})


def error(code: str, status: int = 400, legacy: str = "") -> bytes:
    """An error as SQS says it; its text quotes what it was sent, as that of a refused signature does."""
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": f"x-amz-security-token:{CANARY}"})
    headers = {"Content-Type": "application/x-amz-json-1.0"}
    if legacy:
        headers["x-amzn-query-error"] = f"{legacy};Sender"
    return reply(status, body.encode(), headers)


WORKING = {
    "GetQueueUrl": answer(QueueUrl="http://127.0.0.1/000000000000/q"),
    "GetQueueAttributes": answer(Attributes={"MessageRetentionPeriod": FOURTEEN_DAYS}),
}


class FakeSqs:
    """Answers each operation as told; what is asked is in `asked`."""

    def __init__(self, server: FaultServer) -> None:
        self.environ = aws_environ(server.url)
        self.answers: dict[str, Steps] = dict(WORKING)
        self.asked: list[str] = []
        server.on("/", self._answer)

    def _answer(self, request: Request) -> Steps:
        operation = request.headers["x-amz-target"].rpartition(".")[2]
        self.asked.append(operation)
        return self.answers[operation] if operation in self.answers else self.answers["*"]


@pytest.fixture
async def fake() -> AsyncIterator[FakeSqs]:
    async with fault_server() as server:
        yield FakeSqs(server)


EVERY_CALL: dict[str, Call] = {
    "put": lambda queue: queue.put(PUT),
    "fetch": lambda queue: queue.fetch(1, 0.5),
    "ack": lambda queue: queue.ack(LEASE),
    "nack": lambda queue: queue.nack(LEASE, 1.0),
    "extend": lambda queue: queue.extend([LEASE]),
    "dead": lambda queue: queue.dead(LEASE, DEAD_LETTER),
    "stats": lambda queue: queue.stats(),
    "dead_letters": lambda queue: anext(queue.dead_letters()),
}


async def failing(queue: SqsQueue, name: str) -> BulkfetchError:
    """The error of a call; it comes soon, and with no secret in it."""
    with anyio.fail_after(20), pytest.raises((TransientError, FatalError)) as caught:
        await EVERY_CALL[name](queue)
    assert_keeps_secrets(caught.value)
    return caught.value


# URLs and settings


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqs://invoices.fifo", "standard queue"),
        ("sqs://AKIA:secret@invoices", "do not belong in a URL"),
        ("sqs://", "sqs://name"),
        ("sqs://a/b", "12 digits"),
        ("sqs:///b", "12 digits"),
        ("sqs://123456789012/a/b", "12 digits"),
        ("sqs://in voices", "sqs://name"),
        (f"sqs://{'q' * 76}", "75 letters"),
    ],
)
async def test_urls_that_name_no_usable_queue(url, says) -> None:
    """They are refused before anything is sent, without what may be a secret in them."""
    error = await refused({}, url)
    assert isinstance(error, UsageError)
    assert says in str(error)
    assert "AKIA" not in str(error)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"AWS_REGION": ""}, "AWS_REGION"),
        ({"AWS_REGION": "not a region!"}, "AWS_REGION"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "PartialCredentialsError"),
        ({"AWS_ENDPOINT_URL": f"localhost:1/{CANARY}"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://203.0.114.1:1"}, "https://"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound"),
    ],
)
async def test_settings_that_cannot_be_used(no_aws_files, changed, says) -> None:
    """They are refused before anything is sent, and the message says which."""
    error = await refused({**aws_environ("http://127.0.0.1:1"), **changed})
    assert isinstance(error, UsageError)
    assert says in str(error)


@pytest.fixture
def no_aws_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own AWS settings and its metadata service are not looked at."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def test_without_credentials(no_aws_files) -> None:
    """The message says how to give some."""
    error = await refused({"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert "AWS_ACCESS_KEY_ID" in str(error)


async def test_a_profile_gives_keys_and_region(no_aws_files, monkeypatch, tmp_path, fake) -> None:
    """What AWS_PROFILE names is used, and the queue's own endpoint goes before the general one."""
    config = tmp_path / "config"
    config.write_text(
        "[profile billing]\nregion = eu-central-1\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = s\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    environ = {
        "AWS_PROFILE": "billing",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_SQS": fake.environ["AWS_ENDPOINT_URL"],
    }
    async with opened(environ):
        pass
    assert fake.asked


async def test_plain_http_goes_through_no_proxy(monkeypatch, fake) -> None:
    """A proxy that is set for the world outside is not asked for a server of one's own, and would read everything."""
    for variable in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with opened(fake.environ):
        pass
    assert fake.asked


async def test_sqs_outside_is_reached_through_the_proxy(tmp_path, monkeypatch, fake) -> None:
    """SQS goes the way that everything goes: by the proxy and the authority of the variables that are given."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    authority, served = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("sqs.outside.example").configure_cert(served)
    port = int(fake.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    async with tls_front(served, port) as front, connect_proxy({"sqs.outside.example": front}, auth=True) as proxy:
        way = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        async with opened(fake.environ | way | {"AWS_ENDPOINT_URL": "https://sqs.outside.example"}):
            pass
    assert fake.asked
    assert set(proxy.targets) == {"sqs.outside.example:443"}


def test_without_the_client() -> None:
    """Where the extra is not installed, the message says how to install it."""
    program = (
        "import sys; sys.modules['aiobotocore'] = sys.modules['botocore'] = None\n"
        "from bulkfetch.errors import UsageError\nfrom bulkfetch.queues import open_queue\n"
        "async def main():\n"
        "    async with open_queue('sqs://q', {}, notify=print): pass\n"
        "import anyio\n"
        "try: anyio.run(main)\nexcept UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert "pip install 'bulkfetch[sqs]'" in done.stdout, done.stderr


# The queues


async def test_queues_are_made_to_keep_messages_as_long_as_possible(ministack: Ministack) -> None:
    """Who feeds the queue makes it and the one of the dead letters, both with 14 days; workers find them."""
    name = ministack.new_name()
    async with opened(ministack.environ, f"sqs://{name}", create=True):
        pass
    for queue in (name, f"{name}-dead"):
        found = ministack.call("GetQueueAttributes", QueueUrl=ministack.url(queue), AttributeNames=["All"])
        assert found["Attributes"]["MessageRetentionPeriod"] == FOURTEEN_DAYS
        assert found["Attributes"]["VisibilityTimeout"] == "30"
    async with opened(ministack.environ, f"sqs://{ACCOUNT}/{name}") as queue:
        assert queue.name == f"sqs://{ACCOUNT}/{name}"


async def test_a_queue_that_is_there_is_left_as_it_is(ministack: Ministack) -> None:
    """A queue made by others is used, with a warning if it drops messages early."""
    name = ministack.new_name()
    ministack.call("CreateQueue", QueueName=name, Attributes={"MessageRetentionPeriod": "86400"})
    events: list[Event] = []
    async with opened(ministack.environ, f"sqs://{name}", create=True, events=events):
        pass
    found = ministack.call("GetQueueAttributes", QueueUrl=ministack.url(name), AttributeNames=["All"])
    assert found["Attributes"]["MessageRetentionPeriod"] == "86400"
    (note,) = events
    assert isinstance(note, Note)
    assert "within 1 days" in note.message
    assert "MessageRetentionPeriod" in note.message


async def test_a_missing_dead_letter_queue_is_noticed_at_once(ministack: Ministack) -> None:
    """Not only when the first dead letter is written."""
    name = ministack.new_name()
    ministack.call("CreateQueue", QueueName=name)
    error = await refused(ministack.environ, f"sqs://{name}")
    assert f"{name}-dead" in str(error)


async def test_another_accounts_queue_is_not_made(ministack: Ministack) -> None:
    """SQS would make it in the wrong account."""
    with pytest.raises(FatalError, match="account 123456789012"):
        async with opened(ministack.environ, f"sqs://123456789012/{ministack.new_name()}", create=True):
            pass


@pytest.mark.parametrize(("receives", "usable"), [(1, False), (10, False), (19, False), (20, True)])
async def test_a_queue_that_moves_messages_away_by_itself(ministack: Ministack, receives, usable) -> None:
    """A redrive policy that would come before bulkfetch's own guard is refused, with setting and fix."""
    name = ministack.new_name()
    for queue in (name, f"{name}-dead"):
        ministack.call("CreateQueue", QueueName=queue)
    target = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}-dead"
    policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": str(receives)})
    ministack.call("SetQueueAttributes", QueueUrl=ministack.url(name), Attributes={"RedrivePolicy": policy})
    if usable:
        async with opened(ministack.environ, f"sqs://{name}"):
            pass
    else:
        error = await refused(ministack.environ, f"sqs://{name}")
        assert "maxReceiveCount" in str(error)
        assert "20 or more" in str(error)


# Dead letters


async def test_what_is_no_dead_letter_is_told_of_and_skipped(ministack: Ministack) -> None:
    """A stranger's message among the dead letters hides none of them, and stays."""
    name = ministack.new_name()
    events: list[Event] = []
    async with opened(ministack.environ, f"sqs://{name}", create=True, events=events) as queue:
        ministack.call("SendMessage", QueueUrl=ministack.url(f"{name}-dead"), MessageBody="hello")
        await queue.put(PUT)
        (lease,) = await queue.fetch(1, 1.0)
        await queue.dead(lease, DEAD_LETTER)
        assert [dead_letter async for dead_letter in queue.dead_letters()] == [DEAD_LETTER]
        assert await queue.stats() == QueueStats(0, 0, 2)
    (note,) = events
    assert isinstance(note, Note)
    assert "among the dead letters is none" in note.message


async def test_letters_that_are_listed_are_in_no_other_listing(ministack: Ministack) -> None:
    """So two people who queue them again do not do it twice; a listing that is just dropped ends with the queue."""
    url = f"sqs://{ministack.new_name()}"
    async with opened(ministack.environ, url, create=True) as other:
        async with opened(ministack.environ, url) as queue:
            await queue.put(PUT)
            (lease,) = await queue.fetch(1, 1.0)
            await queue.dead(lease, DEAD_LETTER)
            dead_letters = queue.dead_letters()
            assert await anext(dead_letters) == DEAD_LETTER
            assert [dead_letter async for dead_letter in other.dead_letters()] == []
            assert (await other.stats()).dead == 1
        assert [dead_letter async for dead_letter in other.dead_letters()] == [DEAD_LETTER]
        await dead_letters.aclose()


async def test_a_letter_that_somebody_else_has_listed_meanwhile(ministack: Ministack) -> None:
    """Its message is queued again, and that the dead letter stays is told."""
    url, events = f"sqs://{ministack.new_name()}", list[Event]()
    async with (
        opened(ministack.environ, url, create=True, events=events) as queue,
        opened(ministack.environ, url) as other,
    ):
        with pytest.raises(FatalError, match="was not listed"):
            await queue.requeue(DEAD_LETTER)
        await queue.put(PUT)
        (lease,) = await queue.fetch(1, 1.0)
        await queue.dead(lease, DEAD_LETTER)
        for lister in (queue, other):
            assert [dead_letter async for dead_letter in lister.dead_letters()] == [DEAD_LETTER]
        await queue.requeue(DEAD_LETTER)
        assert len(await queue.fetch(1, 1.0)) == 1
    (note,) = events
    assert isinstance(note, Note)
    assert "stays where it is" in note.message


# Errors


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("AccessDenied", 403, "GetQueueUrl: access is denied"),
        ("AccessDeniedException", 400, "access is denied"),
        ("InvalidClientTokenId", 403, "AWS_ACCESS_KEY_ID"),
        ("UnrecognizedClientException", 400, "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, "clock"),
        ("InvalidSignatureException", 400, "AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", 403, "expired"),
        ("ExpiredTokenException", 400, "expired"),
        ("InvalidAddress", 400, "AWS_REGION"),
        ("KmsAccessDenied", 400, "encryption key"),
        ("SomethingNew", 400, "SomethingNew"),
        ("Bad\x1b[31mCode", 400, "unknown error"),
    ],
)
async def test_what_a_person_must_mend_is_fatal(fake: FakeSqs, code, status, says) -> None:
    """At the start and in the middle of a run alike, with the fix, and without the answer's text."""
    fake.answers["GetQueueUrl"] = error(code, status)
    assert says in str(await refused(fake.environ))
    fake.answers = {**WORKING, "*": error(code, status)}
    async with opened(fake.environ) as queue:
        for name in ("put", "fetch"):
            assert isinstance(await failing(queue, name), FatalError)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("RequestThrottled", 400),
        ("ThrottlingException", 400),
        ("OverLimit", 403),
        ("KmsThrottled", 400),
        ("InternalFailure", 500),
        ("ServiceUnavailable", 503),
        ("RequestTimeout", 408),
        ("SomethingNew", 500),
    ],
)
async def test_what_passes_is_asked_for_again_by_the_caller_alone(fake: FakeSqs, code, status) -> None:
    """Throttling and failures of SQS are transient, and the client itself makes no second try."""
    fake.answers["*"] = error(code, status)
    async with opened(fake.environ) as queue:
        for name in ("put", "fetch", "ack", "nack", "extend", "dead", "dead_letters"):
            fake.asked.clear()
            assert isinstance(await failing(queue, name), TransientError), name
            assert len(fake.asked) == 1


@pytest.mark.parametrize("code", ["InvalidParameterValue", "ReceiptHandleIsInvalid", "MessageNotInflight"])
async def test_a_receipt_that_counts_no_more_is_harmless(fake: FakeSqs, code) -> None:
    """A message in other hands, or done with: neither ack nor nack nor an extension raises."""
    fake.answers["DeleteMessage"] = error(code, legacy=f"AWS.SimpleQueueService.{code}")
    fake.answers["ChangeMessageVisibilityBatch"] = answer(Failed=[{"Id": "0", "Code": code, "SenderFault": True}])
    async with opened(fake.environ) as queue:
        await queue.ack(LEASE)
        await queue.nack(LEASE, 1.0)
        await queue.extend([LEASE])


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        ({"Failed": [{"Id": "0", "Code": "InvalidMessageContents", "SenderFault": True}]}, FatalError, "of inv-1 is"),
        ({"Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]}, TransientError, "InternalError"),
        ({"Failed": [{"Id": "0", "Code": "RequestThrottled", "SenderFault": True}]}, TransientError, "Throttled"),
        ({}, TransientError, "no usable answer"),
    ],
)
async def test_a_batch_that_was_not_taken_whole(fake: FakeSqs, said, kind, says) -> None:
    """An answer of success may hold failures; a dead letter that was not taken leaves its message in the queue."""
    fake.answers["SendMessageBatch"] = answer(**said)
    async with opened(fake.environ) as queue:
        for name in ("put", "dead"):
            found = await failing(queue, name)
            assert isinstance(found, kind)
            assert says in str(found)
    assert "DeleteMessage" not in fake.asked


async def test_an_answer_that_is_not_of_sqs(fake: FakeSqs) -> None:
    """A proxy's page is not taken for an empty queue, nor for one that is there."""
    page = reply(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
    async with opened(fake.environ) as queue:
        fake.answers = {"*": page}
        for name in ("put", "dead", "stats"):
            assert isinstance(await failing(queue, name), TransientError)
    assert "is the endpoint SQS?" in str(await refused(fake.environ))


async def test_a_silent_server_is_not_waited_for(fake: FakeSqs, monkeypatch) -> None:
    """A call without answer is given up, whatever trickles in meanwhile; at the start it is fatal."""
    async with opened(fake.environ) as queue:
        monkeypatch.setattr(sqs_client, "ANSWER_TIMEOUT", 0.3)
        fake.answers = {"*": (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", *(b" ", 0.2) * 50)}
        for name in EVERY_CALL:
            assert isinstance(await failing(queue, name), TransientError), name
    assert "no answer in time" in str(await refused(fake.environ))


async def test_an_endpoint_where_nobody_listens() -> None:
    """It is fatal at the start, and soon."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # so that nobody else takes the port; connections are refused
        assert "AWS_ENDPOINT_URL" in str(await refused(aws_environ(f"http://127.0.0.1:{silent.getsockname()[1]}")))


async def test_a_server_that_goes_away_and_comes_back(ministack_python, tmp_path) -> None:
    """While it is away every call fails soon, to be made again; that it has lost the queue is fatal."""
    port = free_port()
    with running(ministack_python, tmp_path, port) as server:
        assert server is not None
        environ = server.environ
        context = opened(environ, "sqs://q", create=True)
        queue = await context.__aenter__()
        await queue.put(PUT)
    for name in EVERY_CALL:
        assert isinstance(await failing(queue, name), TransientError), name
    with running(ministack_python, tmp_path, port) as server:
        assert server is not None
        for name in EVERY_CALL:
            found = await failing(queue, name)
            assert isinstance(found, FatalError), name
            assert "was it deleted" in str(found)
        await context.__aexit__(None, None, None)


async def test_a_queue_that_is_deleted_in_the_middle(ministack: Ministack) -> None:
    """It ends the run, and the message says what happened."""
    name = ministack.new_name()
    async with opened(ministack.environ, f"sqs://{name}", create=True) as queue:
        await queue.put(PUT)
        ministack.call("DeleteQueue", QueueUrl=ministack.url(name))
        for call in ("put", "fetch", "stats"):
            found = await failing(queue, call)
            assert isinstance(found, FatalError)
            assert "was it deleted" in str(found)


async def test_many_messages_at_a_time(ministack: Ministack) -> None:
    """A large fetch makes several calls, and what comes in the first is not lost if a later one fails."""
    name = ministack.new_name()
    async with opened(ministack.environ, f"sqs://{name}", create=True) as queue:
        assert await queue.put([(f"inv-{number}", b"{}") for number in range(505)]) == 505
        leases = await queue.fetch(300, 1.0)
        assert len(leases) == 300
        assert len({lease.handle for lease in leases}) == 300
        assert await queue.stats() == QueueStats(205, 300, 0)
        with anyio.fail_after(30):
            await queue.extend(leases)


def test_sqs_moves_nothing_away_before_bulkfetch_gives_it_up() -> None:
    """A queue's own policy must allow more receives than the deliveries after which a message is poison."""
    assert LEAST_RECEIVES > MAX_DELIVERIES + 1
