"""
What a service manager is told: that we serve, reload, stop, live (the protocol of sd_notify(3)).

Runs in the primary. Without `NOTIFY_SOCKET` in the environment nobody wants to know, and nothing is sent. What cannot
be sent is no reason to stop serving.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What a service manager gives to the process it started, and nobody passes on."""


class ServiceManager:
    """Who started us, if it listens."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Take what it gave out of the environment, which the workers get."""
        given = {name: environment.pop(name, "") for name in VARIABLES}
        self._address = given["NOTIFY_SOCKET"]
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        ours = given["WATCHDOG_PID"] in ("", str(os.getpid()))
        usec = int(given["WATCHDOG_USEC"]) if given["WATCHDOG_USEC"].isdecimal() and ours else 0
        self.watchdog_s = usec / 2_000_000 if self._address else 0.0
        """How often it wants to hear that we live (half the time after which it gives us up), or 0."""

    def ready(self, status: str) -> None:
        self._say("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._say("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        self._say("WATCHDOG=1")

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self._address)
            sock.send("\n".join(lines).encode())
