"""`--json`: the manifest's rows on stdout."""

import json
import sys
import threading
from pathlib import Path
from typing import TextIO

from bulkfetch.cli.streams import Output
from bulkfetch.events import Event, RowCorrected, RowsRecorded, RunStarted

_ROWS_AT_ONCE = 256


class JsonRows:
    """Writes each manifest row to stdout as a line of JSON, soon after it became durable.

    A thread of its own reads the rows where they are durable. So a reader who is slow, or reads nothing for a while,
    gets them all in the end, and costs neither memory nor the run's time.

    Mutable: `_due`, how many rows are durable, by the event loop; `_written` and `_broken` by the thread.
    """

    def __init__(self) -> None:
        self._due = 0
        self._written = 0
        self._broken: str | None = None
        self._more = threading.Event()

    def __call__(self, event: Event) -> None:
        """Take note of rows."""
        if type(event) is RowsRecorded:
            self._due += len(event.rows)
            self._more.set()
        elif type(event) is RowCorrected:
            self._due += 1
            self._more.set()
        elif type(event) is RunStarted and event.rows is not None:
            # A daemon: a reader who never comes back must not keep the process.
            threading.Thread(target=self._write, args=(event.rows, sys.stdout), name="rows", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to write, or nothing can be written."""
        return self._written == self._due or self._broken is not None

    def loss(self) -> str | None:
        """What of the rows was not written to stdout, in words; None if all were."""
        lost = self._due - self._written
        if not lost:
            return None
        why = self._broken or "its reader took no more"
        return f"{lost:,} of {self._due:,} rows could not be written to stdout: {why}; the manifest has them all"

    def _write(self, path: Path, stdout: TextIO) -> None:
        try:
            with path.open("rb") as rows:
                while self._broken is None:
                    self._more.wait()
                    self._more.clear()
                    while (left := min(self._due - self._written, _ROWS_AT_ONCE)) and self._broken is None:
                        self._put(stdout, b"".join(_in_ascii(rows.readline()) for _ in range(left)))
        except OSError as error:
            self._broken = error.strerror or type(error).__name__

    def _put(self, stdout: TextIO, lines: bytes) -> None:
        if isinstance(stdout, Output):
            self._written += lines[: stdout.put(lines)].count(b"\n")
            self._broken = stdout.failure
        else:
            stdout.write(lines.decode())
            stdout.flush()
            self._written += lines.count(b"\n")


def _in_ascii(line: bytes) -> bytes:
    """The JSON `line` with nothing in it that could steer a terminal, or that a reader's encoding could miss."""
    harmless = line.isascii() and b"\x7f" not in line
    return line if harmless else json.dumps(json.loads(line), separators=(",", ":")).encode() + b"\n"
