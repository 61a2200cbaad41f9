"""
An `EngineUser` that sends each message back, as the official suite of Engine.IO wants it.

Runs in the worker, or in a test's server. Pure but for what it writes: knows no Socket.IO packet.
"""

from __future__ import annotations

from realtime.protocol.socketio.engine import EngineConnection
from realtime.transport.frames import BINARY, TEXT


class Echo:
    """The user of one connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection

    def message(self, data: str | bytes) -> None:
        """Send it back."""
        frames = BINARY.frame(data) if isinstance(data, bytes) else TEXT.frame(b"4" + data.encode())
        self._connection.send(frames)

    def upgraded(self, transport: str) -> None:
        """It is the same for what is sent back."""

    def drained(self) -> None:
        """Nothing was held back."""

    def closed(self, reason: str) -> None:
        """Nothing has to be ended."""
