"""
Looks for the next primary of a server, in a process that has outlived its keeper and its primary.

Used in workers and sidecar processes. It connects to the socket `ORPHAN_SOCKET` of the control directory as soon as a
primary listens there, and sends the report (handoff/orphan_report.py). It never waits, and sends nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from sticky.handoff.orphan_report import ORPHAN_SOCKET, OrphanReport

SEARCH_S: Final = 0.1  # between two attempts to connect; a primary that starts waits much longer


class PrimarySearch:
    """Looks for the next primary of a control directory, until it is found, or `stop` is called."""

    def __init__(self, directory: str, report: OrphanReport) -> None:
        """
        Args:
            directory: the control directory; "" for a server without one: then nothing is looked for.
        """
        self._path = os.path.join(directory, ORPHAN_SOCKET) if directory else ""
        self._report = msgspec.msgpack.encode(report)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_possible(self) -> bool:
        """Whether there is a place to look at."""
        return bool(self._path)

    def start(self, on_found: Callable[[socket.socket], object]) -> None:
        """Begin. `on_found` is called once, with a connection on which the report was sent, and owns it."""
        self.stop()
        if self._path:
            self._timer = asyncio.get_running_loop().call_later(SEARCH_S, self._look, on_found)

    def _look(self, on_found: Callable[[socket.socket], object]) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
            sock.send(self._report)
        except OSError:  # there is none yet, or too many ask at once
            sock.close()
            self.start(on_found)
            return
        self._timer = None
        on_found(sock)

    def stop(self) -> None:
        """Look no further."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
