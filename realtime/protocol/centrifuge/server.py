"""
The protocol in one worker: what all its sessions share, and what one client may do.

Runs in the worker. It makes a session for each connection that was adopted, and adds it to the registry, where others
find it. What a session does is in session.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from realtime.auth.credentials import WrongCredentials
from realtime.auth.tokens import Tokens
from realtime.protocol.base import Application
from realtime.protocol.centrifuge import json, protobuf, uni
from realtime.protocol.centrifuge.codec import Codec
from realtime.protocol.centrifuge.frame_pinged import FramePinged
from realtime.protocol.centrifuge.session import Session
from realtime.protocol.centrifuge.wire import Wire
from realtime.rooms.hub import Hub
from realtime.session.registry import Home, Registry
from realtime.timing.rate import Rate
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import Framing, Handshake, Transport


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may do. Each is a setting of the same name."""

    ping_s: float = 25.0
    pong_s: float = 10.0
    connect_s: float = 10.0  # from the handshake to the first command
    expiry_grace_s: float = 25.0
    rooms_per_connection: int = 128
    room_name_bytes: int = 255
    history_page: int = 300
    anonymous: bool = True
    commands_per_second: int = 100  # 0: as many as it likes
    answer_bytes: int = 1024**2  # a second, of presence and history; 0: as many as it likes

    @property
    def commands(self) -> Rate | None:
        """How many commands: so many a second, and at once as many more as a client with all its rooms begins with."""
        if not self.commands_per_second:
            return None
        burst = self.commands_per_second + self.rooms_per_connection
        return Rate(burst, burst / self.commands_per_second)


class Centrifuge:
    """The protocol in one worker: what all its sessions share. Makes a session for each adopted connection."""

    subprotocols: Sequence[str] = ("centrifuge-protobuf", "centrifuge-json")

    def __init__(
        self,
        application: Application,
        hub: Hub,
        *,
        wheel: TimerWheel,
        tokens: Tokens,
        limits: Limits,
        home: Home,
        registry: Registry,
        wrong: WrongCredentials | None = None,
    ) -> None:
        """
        Args:
            registry: where sessions are found as long as they are open.
            wrong: counts and slows tokens that are wrong; none waits unless given.
        """
        self.wrong = WrongCredentials(most_s=0) if wrong is None else wrong
        self.application = application
        self.hub = hub
        self.wheel = wheel
        self.tokens = tokens
        self.limits = limits
        self.home = home
        self.event_loop = asyncio.get_running_loop()
        self.registry = registry
        self.commands = limits.commands
        self._wires: dict[tuple[str, Framing, bool], Wire] = {}

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> Session:
        """Begin a session. It is closed as stale when no `connect` comes in time."""
        kind = Session if handshake.ping_frame is None else FramePinged
        session = kind(self, transport, handshake, codec_for(handshake, subprotocol))
        self.registry.add(session)
        return session

    def wire(self, codec: Codec, framing: Framing, *, is_delta: bool = False) -> Wire:
        """Return the one wire for this codec and framing."""
        key = (codec.NAME, framing, is_delta)
        wire = self._wires.get(key)
        if wire is None:
            wire = self._wires[key] = Wire(codec, framing, is_delta=is_delta)
        return wire


def codec_for(handshake: Handshake, subprotocol: str | None) -> Codec:
    """Return the encoding that a client asks for (protocol, sections 2.1, 2.2 and 2.5)."""
    if handshake.is_one_way:
        return uni
    asked = handshake.query.get("cf_protocol") or handshake.query.get("format")
    return protobuf if subprotocol == "centrifuge-protobuf" or asked == "protobuf" else json
