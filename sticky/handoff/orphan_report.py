"""
What a process reports to a primary that it has not been started by: it has outlived its keeper and its primary.

Used in workers and sidecar processes, which send it, and in the primary, which reads it. It is the first packet on a
connection to the socket `ORPHAN_SOCKET` of the control directory. A primary that adopts the process uses the connection
from then on: as a worker's channel, or as a sidecar's liveness socket. It never waits, and decides nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

ORPHAN_SOCKET: Final = "orphans.sock"
"""In the control directory: where a primary that starts waits for the processes of an earlier one."""

VERSION: Final = 1  # of the report and of all that follows on the connection
SEARCH_S: Final = 0.1  # between two attempts to connect; a primary that starts waits much longer
PACKET_MAX: Final = 64 * 1024


class OrphanReport(msgspec.Struct, array_like=True, frozen=True):
    """
    One report.

    Attributes:
        version: a primary that does not know it ends the process.
        name: a worker's id, or a sidecar's name as one word.
        terms: a digest of the settings that it was started with.
        node, secret: of the earlier primary; empty from a sidecar.
    """

    version: int
    name: str
    terms: str
    node: str = ""
    secret: bytes = b""


def terms_of(parts: Sequence[Any]) -> str:
    """Return a digest of plain data. Processes with the same terms can serve beside each other."""
    return blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()


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
