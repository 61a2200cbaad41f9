"""
What all WebSockets of a worker share: limits, admission, the sessions' factory, and counts.

Runs in the worker. It knows its connections by `OpenSocket` alone, and reads no byte of theirs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Protocol

from realtime.settings import Settings
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.adopted import ConnectionOwner, NoOwner
from realtime.transport.base import SessionFactory
from realtime.transport.flood import FloodLimits
from realtime.transport.handshake import Admission
from sticky.heads.first_bytes import HeadLimits

logger = logging.getLogger("realtime.websocket")


class OpenSocket(Protocol):
    """One WebSocket, as the endpoint knows it."""

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done, and no close frame was sent or received."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after what was written, and wait for the peer's."""

    def abort(self) -> None:
        """Cut the connection now; what was not sent is lost."""


@dataclass(frozen=True, slots=True)
class WebSocketLimits:
    """Each is a setting of the same name."""

    head_bytes: int = Settings.head_bytes
    head_headers: int = Settings.head_headers
    handshake_s: float = Settings.handshake_s
    message_bytes: int = Settings.message_bytes
    outbound_bytes: int = Settings.outbound_bytes
    outbound_s: float = Settings.outbound_s
    flood: FloodLimits = field(default_factory=FloodLimits)

    @classmethod
    def from_settings(cls, settings: Settings) -> WebSocketLimits:
        """Return the limits that are set."""
        return cls(
            head_bytes=settings.head_bytes,
            head_headers=settings.head_headers,
            handshake_s=settings.handshake_s,
            message_bytes=settings.message_bytes,
            outbound_bytes=settings.outbound_bytes,
            outbound_s=settings.outbound_s,
            flood=FloodLimits(
                settings.control_frames_per_second, settings.fragments_per_second, settings.segments_per_second
            ),
        )


class WebSocketEndpoint:
    """What all WebSockets of a worker share."""

    def __init__(
        self,
        sessions: SessionFactory,
        *,
        wheel: TimerWheel,
        limits: WebSocketLimits | None = None,
        admission: Admission | None = None,
        owner: ConnectionOwner | None = None,
    ) -> None:
        """
        Args:
            sessions: makes the session of each connection.
            wheel: for deadlines; somebody turns it.
            limits: the settings' defaults unless given.
            admission: which clients may connect; unless given, pages of the same host, by the rules of `sessions`.
            owner: hears of each connection's end, where the connections are somebody's.
        """
        self.sessions = sessions
        self.wheel = wheel
        self.limits = limits or WebSocketLimits()
        self.head = HeadLimits(self.limits.head_bytes, self.limits.head_headers)
        self.admission = admission or Admission(subprotocols=tuple(sessions.subprotocols), parameters=sessions)
        self.owner = NoOwner() if owner is None else owner
        self.connections: set[OpenSocket] = set()
        self.logs_messages = logger.isEnabledFor(logging.DEBUG)  # what is sent and received
        self.opened = 0
        self.refused = 0
        self.slow = 0
        self.too_big = 0
        self.flooding = 0

    def statistics(self) -> dict[str, int]:
        """Count the connections now, and what happened to those before."""
        return {
            "websockets": len(self.connections),
            "opened": self.opened,
            "refused": self.refused,
            "slow": self.slow,
            "too_big": self.too_big,
            "flooding": self.flooding,
        }
