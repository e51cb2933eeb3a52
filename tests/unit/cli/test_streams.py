"""Standard streams whose readers leave, stall, or have another encoding."""

import os
import threading
import time
from contextlib import suppress

import pytest
from support.program import until

from bulkfetch.cli.streams import RELAYED_CHARACTERS, Output, Relay, lost_output, wait_for_readers


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


def test_what_an_encoding_lacks_is_escaped(pipe):
    """No text raises an encoding's error."""
    reader, writer = pipe
    Output(writer, "ascii").write("Müller €\n")
    assert os.read(reader, 100) == b"M\\xfcller \\u20ac\n"


def test_a_reader_that_has_gone_is_no_error_and_no_loss(pipe):
    """Who reads no further wanted no more; nothing is raised, then or later."""
    reader, writer = pipe
    output = Output(writer, "utf-8")
    os.close(reader)
    output.write("one\n")
    output.write("two\n")
    assert output.failure == "its reader has gone"
    assert lost_output(output) is None


def test_a_full_disk_is_a_loss_with_its_cause():
    """What could not be written for want of space is told."""
    fd = os.open("/dev/full", os.O_WRONLY)
    output = Output(fd, "utf-8")
    assert lost_output(output) is None
    output.write("one\n")
    os.close(fd)
    assert lost_output(output) == "No space left on device"


def test_a_stream_that_does_not_block_loses_nothing(pipe):
    """Whoever shares a pipe may have set it to O_NONBLOCK: a full one is waited for."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    output, text, got = Output(writer, "utf-8"), "x" * 300_000, bytearray()
    writing = threading.Thread(target=output.write, args=(text,))
    writing.start()
    while len(got) < len(text):
        got += os.read(reader, 65536)
    writing.join(10)
    assert not writing.is_alive()
    assert got.decode() == text


def test_a_relay_waits_for_no_reader_and_is_bounded(pipe):
    """With nobody reading, a write returns at once, and what waits does not grow without end."""
    reader, writer = pipe
    relay = Relay(Output(writer, "utf-8"))
    began = time.monotonic()
    for _ in range(4 * RELAYED_CHARACTERS // 1000):
        relay.write("x" * 999 + "\n")
    assert time.monotonic() - began < 5
    assert not relay.idle
    os.set_blocking(reader, False)
    got = bytearray()

    def read() -> bool:
        # What was passed on last is still to be read when the relay has nothing left.
        idle = relay.idle
        with suppress(BlockingIOError):
            while part := os.read(reader, 1 << 20):
                got.extend(part)
        return idle

    until(read)
    assert RELAYED_CHARACTERS <= len(got) < RELAYED_CHARACTERS + 200_000
    relay.write("again\n")
    until(lambda: read() and got.endswith(b"again\n"))


def test_the_wait_for_readers_ends_in_time():
    """At its moment, or when there is nothing to wait for."""
    began = time.monotonic()
    wait_for_readers(lambda: False, began + 0.5)
    assert 0.5 <= time.monotonic() - began < 5
    wait_for_readers(lambda: True, None)
