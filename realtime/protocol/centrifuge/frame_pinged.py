"""
Sessions that are pinged by frames of their WebSocket: for clients that leave pings to the library they stand on.

Runs in the worker. All but the pings is as in session.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from realtime import codes
from realtime.protocol.centrifuge.codec import Codec
from realtime.protocol.centrifuge.session import Session
from realtime.transport.base import Handshake, Transport

if TYPE_CHECKING:
    from realtime.protocol.centrifuge.server import Centrifuge


class FramePinged(Session):
    """
    A client that is pinged by frames of its WebSocket, in place of empty messages (protocol, section 2.1). Those who
    only listen have to answer these too: the library that a client stands on does.
    """

    __slots__ = ("_ping_frame",)

    def __init__(self, shared: Centrifuge, transport: Transport, handshake: Handshake, codec: Codec) -> None:
        super().__init__(shared, transport, handshake, codec)
        assert handshake.ping_frame is not None, "it is what makes this one another kind"
        self._ping_frame = handshake.ping_frame

    @property
    def pings_announced(self) -> tuple[int, bool]:
        """Nothing: what it is told of are messages."""
        return 0, False

    def _ping(self) -> None:
        self._awaits_pong = True
        self.transport.write(self._ping_frame)
        self._timer = self.shared.wheel.after(self.shared.limits.pong_s, Session._check_pong, self)

    def pong_received(self) -> None:
        """Take the answer to a ping. One that was not asked for is as good."""
        self._awaits_pong = False
        self._taken = None

    def _pong(self) -> None:
        self.finish(codes.PROTOCOL)  # an empty message answers nothing here
