"""
A service manager for tests: it has the socket on which services notify, as systemd does (sd_notify(3)).

A thread reads the messages as they come, for the kernel keeps ten and drops the rest.
"""

from __future__ import annotations

import queue
import socket
import threading
from pathlib import Path
from types import TracebackType

DEADLINE_S = 60.0  # only a hang reaches it


class ServiceManager:
    """The manager's end. `path` is for `NOTIFY_SOCKET`."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self._messages: queue.Queue[dict[str, str]] = queue.Queue()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while data := self._sock.recv(4096):
            lines = (line.partition("=") for line in data.decode().split("\n"))
            self._messages.put({name: value for name, _, value in lines})

    def next(self) -> dict[str, str]:
        """Return the next message, as fields. Signs of life are left out."""
        while "WATCHDOG" in (message := self._messages.get(timeout=DEADLINE_S)):
            pass
        return message

    def wait_for(self, name: str) -> dict[str, str]:
        """Return the next message that has a field; others until then are dropped."""
        while name not in (message := self._messages.get(timeout=DEADLINE_S)):
            pass
        return message

    def __enter__(self) -> ServiceManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._sock.close()
