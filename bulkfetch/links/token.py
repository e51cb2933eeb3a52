"""The API token: where it comes from, and its renewal when the API refuses it."""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL

import anyio

from bulkfetch.errors import FatalError, UsageError
from bulkfetch.models import Secret

COMMAND_TIMEOUT = 30.0
MAX_TOKEN = 16 * 1024


class TokenSource:
    """Holds the token of a run and knows how to get a new one.

    The token comes from the first of three places that is set: `value`, `command`, `file`. Many workers that meet a
    refused token cause one renewal.

    Args:
        value: the token in the environment, which cannot be renewed; None if there is none.
        file: a file with the token, read again for a renewal; empty if there is none.
        command: a command that prints the token, run again for a renewal; empty if there is none.
        warn: told whenever the token file is read, if its group may read it.

    Raises:
        UsageError: none of the three is set.
    """

    def __init__(self, *, value: Secret | None, file: str, command: Sequence[str], warn: Callable[[str], None]) -> None:
        self._value = value
        self._file = file
        self._command = list(command)
        self._warn = warn
        self._current: Secret | None = None
        self._refused: Secret | None = None
        self._lock = anyio.Lock()
        if value is None and not file and not command:
            raise UsageError("no API token: set BULKFETCH_TOKEN, api.token_file or api.token_command")

    async def current(self) -> Secret:
        """The token to use now.

        Raises:
            UsageError: its place gives no token; the message names the place.
        """
        if self._current is None:
            async with self._lock:
                if self._current is None:
                    self._current = await self._fetch()
        return self._current

    async def renewed(self, refused: Secret) -> Secret | None:
        """A token other than `refused`, which the API has just turned down; None if there is no other.

        Raises:
            FatalError: its place gives no token any more.
        """
        async with self._lock:
            # The place is asked once for each refused token: it may still hold that token.
            if self._current == refused != self._refused:
                self._refused = refused
                try:
                    self._current = await self._fetch()
                except UsageError as error:
                    # The configuration was good enough to start with: now it is the run that has to stop.
                    raise FatalError(str(error)) from None
            return None if self._current == refused else self._current

    async def _fetch(self) -> Secret:
        # A value in the environment is the most explicit and wins, as flags do over files.
        if self._value is not None:
            return _checked(self._value.reveal(), "BULKFETCH_TOKEN")
        if self._command:
            return _checked(await self._run(), "api.token_command")
        return _checked(await anyio.to_thread.run_sync(self._read), f"api.token_file ({self._file})")

    def _read(self) -> str:
        path = Path(self._file).expanduser()
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read(MAX_TOKEN + 1)
        except OSError as error:
            raise UsageError(f"api.token_file ({self._file}) cannot be read: {error.strerror}") from None
        if mode & stat.S_IROTH:
            raise UsageError(f"api.token_file ({self._file}) is readable by everybody: chmod 600 it")
        if mode & stat.S_IRGRP:
            self._warn(f"api.token_file ({self._file}) is readable by its group: chmod 600 it")
        return text.decode("utf-8", "replace")

    async def _run(self) -> str:
        name = self._command[0]
        try:
            with anyio.fail_after(COMMAND_TIMEOUT):
                # The command's stderr may hold secrets, so nobody sees it; our stdin may hold the invoice IDs.
                done = await anyio.run_process(self._command, stdin=DEVNULL, stderr=DEVNULL, check=False)
        except TimeoutError:
            raise UsageError(f"api.token_command ({name}) took longer than {COMMAND_TIMEOUT:.0f} s") from None
        except OSError as error:
            raise UsageError(f"api.token_command ({name}) cannot be run: {error.strerror}") from None
        if done.returncode != 0:
            raise UsageError(f"api.token_command ({name}) ended with exit code {done.returncode}")
        return done.stdout.decode("utf-8", "replace")


def _checked(text: str, label: str) -> Secret:
    token = text.strip()
    if not token:
        raise UsageError(f"{label} holds no token")
    if len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{label} does not hold a bearer token: one word of printable ASCII is expected")
    return Secret(token)
