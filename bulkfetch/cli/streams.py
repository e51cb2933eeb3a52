"""Standard output and error that no reader can hurt: a write raises nothing, and where asked for never waits."""

import io
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

RELAYED_CHARACTERS = 1 << 20
"""How much may wait for whoever reads stderr. What comes on top is dropped: a log is no record, the manifest is."""

_LOOK = 0.005
_AT_LEAST = 0.1  # seconds in which whoever reads at all has read what is left


class Output(io.TextIOBase):
    """Stands in for the standard stream `fd`. Text that its encoding lacks is written escaped.

    `failure` says why nothing can be written any more; None while all is well. From then on text is dropped.
    """

    def __init__(self, fd: int, encoding: str, failure: str | None = None) -> None:
        self._fd = fd
        self._encoding = encoding
        self.failure = failure
        self.reader_gone = False
        self.dropped = False
        """Whether `write` has lost something."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as an attribute
        """As the stream that this one stands for."""
        return self._encoding

    def write(self, text: str) -> int:
        """Write all of `text` before this returns, or drop what is left of it."""
        data = text.encode(self._encoding, "backslashreplace")
        self.dropped |= self.put(data) < len(data)
        return len(text)

    def put(self, data: bytes) -> int:
        """Write `data`, which waits while the reader takes nothing. Returns how many bytes were written."""
        done = 0
        while done < len(data) and self.failure is None:
            try:
                done += os.write(self._fd, memoryview(data)[done:])
            except BlockingIOError:  # somebody who shares the stream has set it so
                select.select([], [self._fd], [])
            except OSError as error:
                self.reader_gone = isinstance(error, BrokenPipeError)
                self.failure = "its reader has gone" if self.reader_gone else os.strerror(error.errno or 0)
        return done

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._fd)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd


class Relay(io.TextIOBase):
    """Passes text on to `stream` from a thread of its own, so that a reader who reads nothing holds up nobody."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._size = 0
        self._lock = threading.Lock()  # of `_size`: a progress display writes from a thread of its own
        self._wanted = threading.Semaphore(0)
        # A daemon: a reader who never comes back must not keep the process.
        threading.Thread(target=self._pass_on, name="stderr", daemon=True).start()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as an attribute
        """As the stream behind it."""
        return self._stream.encoding

    @property
    def idle(self) -> bool:
        """Whether everything has been passed on."""
        return not self._size

    def write(self, text: str) -> int:
        """Have `text` written soon; too much of it is dropped."""
        with self._lock:
            if not text or self._size > RELAYED_CHARACTERS:
                return len(text)
            self._size += len(text)
            self._waiting.append(text)
        self._wanted.release()
        return len(text)

    def _pass_on(self) -> None:
        while True:
            self._wanted.acquire()
            text = self._waiting.popleft()
            self._stream.write(text)
            self._stream.flush()
            with self._lock:
                self._size -= len(text)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the stream behind it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream behind it."""
        return self._stream.fileno()


def open_standard_streams() -> None:
    """Put an `Output` in the place of stdout and stderr. What is closed is opened to nowhere: else the next file
    opened, a manifest say, would take its place.

    A stream that somebody else has put there already is left alone.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        failure = None
        try:
            os.fstat(fd)
        except OSError:
            # The system gives the lowest free descriptor, which is the missing one. Standard input cannot be read then:
            # nobody shall take "closed" for "empty".
            os.open(os.devnull, os.O_RDWR if fd else os.O_WRONLY)
            failure = "it is closed"
        stream = getattr(sys, name)
        if fd and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, Output(fd, stream.encoding if stream else "utf-8", failure))
        elif stream is None:
            sys.stdin = open(fd, closefd=False)  # noqa: SIM115 - as the stream it stands for


def lost_output(stream: TextIO) -> str | None:
    """Why something is missing on `stream`; None if nothing is, or its reader did not want more."""
    lost = isinstance(stream, Output) and stream.dropped and not stream.reader_gone
    return stream.failure if isinstance(stream, Output) and lost else None


@contextmanager
def relayed_stderr() -> Iterator[Callable[[], bool]]:
    """Within this block nobody waits for the reader of stderr. Yields whether that reader has taken everything."""
    try:
        relay = Relay(sys.stderr)
    except RuntimeError:  # the system gives no thread; it will be told where one is indispensable
        yield lambda: True
        return
    with redirect_stderr(relay):
        yield lambda: relay.idle


def wait_for_readers(idle: Callable[[], bool], until: float | None) -> None:
    """Return when `idle`, at the moment `until` (monotonic seconds; None is never), or when a signal asks for the end.

    Such a signal ends this wait and nothing else: what the process has come to stays its exit code. A reader gets a
    moment even if `until` has passed. On the main thread.
    """
    last = None if until is None else max(until, time.monotonic() + _AT_LEAST)
    ended = threading.Event()
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heeded = {signum: handler for signum, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for signum in heeded:
            signal.signal(signum, lambda *_: ended.set())
        while not idle() and not ended.is_set() and (last is None or time.monotonic() < last):
            ended.wait(_LOOK)
    finally:
        for signum, handler in heeded.items():
            signal.signal(signum, handler)
