"""
Notifies a service manager such as systemd that the server serves, reloads, stops, and is alive (sd_notify(3)).

Runs in the primary. Without `NOTIFY_SOCKET` in the environment nothing is sent. A notification that cannot be sent is
dropped, because it is no reason to stop serving. It never reads from the manager.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final

from sticky.loop.poller import Poller

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""Variables that a service manager sets for the process it started. They are not passed on to workers."""


class ServiceManager:
    """The service manager that started this process, if there is one."""

    def __init__(self, environment: MutableMapping[str, str], *, send: Callable[[str], object] | None = None) -> None:
        """
        Remove its variables from `environment`, which the workers get, and note what they say.

        Args:
            send: sends the text of a message. The manager expects messages from the process that it knows, so a
                primary with a keeper has the keeper send them. None: this process sends them itself.
        """
        self._send_text = self._send_here if send is None else send
        given = {name: environment.pop(name, "") for name in VARIABLES}
        self._address = given["NOTIFY_SOCKET"]
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        ours = given["WATCHDOG_PID"] in ("", str(os.getpid()))
        usec = int(given["WATCHDOG_USEC"]) if given["WATCHDOG_USEC"].isdecimal() and ours else 0
        self.watchdog_s = usec / 2_000_000 if self._address else 0.0
        """How often to say that the loop turns: half the time until the manager restarts this process. 0: never."""

    def ready(self, status: str) -> None:
        """Notify that clients are served, also after a reload. `status` is text for `systemctl status`."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Notify that a reload has begun. The caller must call `ready` when it has ended."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "stopping") -> None:
        """Notify that the server stops, or will soon, so that its end is no failure. `status` is as for `ready`."""
        self._send("STOPPING=1", f"STATUS={status}")

    def keep_alive(self, poller: Poller) -> None:
        """Notify that the loop turns, from now on, where the manager watches for that."""
        if self.watchdog_s:
            poller.after(self.watchdog_s, lambda: self.keep_alive(poller))
            self.alive()

    def alive(self) -> None:
        """Notify that the loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address:
            self._send_text("\n".join(lines))

    def _send_here(self, text: str) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self._address)
            sock.send(text.encode())
