"""Datagrams to the service manager that started this process, as sd_notify(3) and sd_watchdog_enabled(3) have them."""

import os
import socket
from collections.abc import MutableMapping
from types import TracebackType
from typing import Self


class Notifier:
    """Tells one service manager. A datagram that the manager does not take is lost; that is no error.

    Args:
        address: the path of the manager's socket, or @ and the name of an abstract socket.
        watchdog: seconds without `WATCHDOG=1` after which the manager takes this process to hang; None if it does not
            watch.
    """

    def __init__(self, address: str, watchdog: float | None) -> None:
        self.watchdog = watchdog
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A manager that reads nothing must not stop the event loop.
        self._socket.setblocking(False)

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Self | None:
        """For the service manager that `environ` names; None where it names none.

        The variables are removed from `environ`, so that no child process can speak for this one.
        """
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        address, usec, pid = (environ.pop(name, "") for name in names)
        if not address.startswith(("/", "@")):
            return None
        ours = pid in ("", str(os.getpid())) and usec.isdecimal() and int(usec) > 0
        return cls(address, int(usec) / 1e6 if ours else None)

    def tell(self, *lines: str) -> bool:
        """Send assignments such as `READY=1` as one datagram. Returns whether the manager took it."""
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
