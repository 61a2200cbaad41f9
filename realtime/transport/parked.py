"""
What waits for a loop's transport, for a WebSocket that has none or may not use it.

Runs in the worker, in the old one around a move and in the new one until the connection is attached. Plain data; the
transport that it belongs to does everything (`websocket_move.py`).
"""

from __future__ import annotations

import asyncio
import socket

from realtime.transport.websocket_export import WebSocketExport


class Parked:
    """What waits for a loop's transport, for a WebSocket that has none or may not use it."""

    __slots__ = ("acknowledged", "detached", "farewell", "is_held", "limits_unsent", "message", "pieces", "sock")

    def __init__(self, sock: socket.socket | None = None) -> None:
        self.sock = sock
        """The descriptor, where the transport owns it."""
        self.detached: asyncio.Future[None] | None = None
        """Done once the loop has let go of it."""
        self.pieces: list[bytes] = []
        """What is to be written, in order. The first piece, which may be empty, was written once already."""
        self.message: WebSocketExport | None = None
        """The export that has a fragmented message in progress, where its frames have to be read anew."""
        self.acknowledged = 0
        """By the peer, when it was exported."""
        self.is_held = False
        """The session reads nothing."""
        self.limits_unsent: bool | None = None
        """What the session asked of the kernel."""
        self.farewell: tuple[int, str] | None = None
        """With which the session wants to close the connection."""
