"""
The protocol in one worker: what all its sessions share, and what one client may do.

Runs in the worker. It makes a session for each connection that was adopted, and finds the open ones by their users, by
their connections' ids, and by the secret ids that `/emulation` names. What a session does is in session.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from realtime.auth.credentials import WrongCredentials
from realtime.auth.tokens import Tokens
from realtime.protocol.base import Application
from realtime.protocol.centrifuge import json, protobuf, uni
from realtime.protocol.centrifuge.codec import Codec
from realtime.protocol.centrifuge.frame_pinged import FramePinged
from realtime.protocol.centrifuge.session import Session, State
from realtime.protocol.centrifuge.wire import Wire
from realtime.rooms.hub import Hub
from realtime.settings import Settings
from realtime.timing.rate import Rate
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import Framing, Handshake, Transport


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may do. Each is a setting of the same name."""

    ping_s: float = Settings.ping_s
    pong_s: float = Settings.pong_s
    connect_s: float = 10.0  # from the handshake to the first command
    expiry_grace_s: float = 25.0
    rooms_per_connection: int = Settings.rooms_per_connection
    room_name_bytes: int = 255
    history_page: int = 300
    anonymous: bool = True
    commands_per_second: int = Settings.commands_per_second  # 0: as many as it likes
    answer_bytes: int = Settings.answer_bytes  # a second, of presence and history; 0: as many as it likes

    @property
    def commands(self) -> Rate | None:
        """How many commands: so many a second, and at once as many more as a client with all its rooms begins with."""
        if not self.commands_per_second:
            return None
        burst = self.commands_per_second + self.rooms_per_connection
        return Rate(burst, burst / self.commands_per_second)


@dataclass(frozen=True, slots=True)
class Home:
    """Where connections are served: this worker."""

    slot: int = 0
    worker: str = ""
    node: str = ""
    version: str = "0"


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
        wrong: WrongCredentials | None = None,
    ) -> None:
        """
        Args:
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
        self.sessions: set[Session] = set()
        self.commands = limits.commands
        self.overruns: Counter[str] = Counter()  # limits that clients ran over, by name
        self.emulated: dict[str, Session] = {}  # those whose commands come by `/emulation`, by their secret ids
        self._wires: dict[tuple[str, Framing, bool], Wire] = {}

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> Session:
        """Begin a session. It is closed as stale when no `connect` comes in time."""
        kind = Session if handshake.ping_frame is None else FramePinged
        session = kind(self, transport, handshake, codec_for(handshake, subprotocol))
        self.sessions.add(session)
        return session

    def wire(self, codec: Codec, framing: Framing, *, is_delta: bool = False) -> Wire:
        """Return the one wire for this codec and framing."""
        key = (codec.NAME, framing, is_delta)
        wire = self._wires.get(key)
        if wire is None:
            wire = self._wires[key] = Wire(codec, framing, is_delta=is_delta)
        return wire

    def sessions_of(self, user: str, client: str = "", stream_id: str = "") -> list[Session]:
        """Return the admitted sessions of a user, or the one with that connection's id, or with that of its own."""
        return [
            each for each in self.sessions if each.state is State.CONNECTED and each.is_meant(user, client, stream_id)
        ]

    def disconnect(
        self, user: str, client: str, code: int, reason: str, *, stream_id: str = "", keep: Collection[str] = ()
    ) -> None:
        """End a user's connections, or the one that is named, but none to `keep`; also those not admitted yet."""
        for each in tuple(self.sessions):
            is_here = each.state in (State.CONNECTING, State.CONNECTED)
            if is_here and each.is_meant(user, client, stream_id) and each.connection.id not in keep:
                each.end(code, reason)

    def emulate(self, stream_id: str, data: bytes | str) -> bool:
        """Take what a client sent beside its stream. Return False when the stream is not here."""
        session = self.emulated.get(stream_id)
        if session is None:
            return False
        session.receive(data)
        return True

    def counts(self) -> tuple[int, int]:
        """Count the admitted sessions, and their users."""
        users = [each.connection.user for each in self.sessions if each.state is State.CONNECTED]
        return len(users), len(set(users))

    def statistics(self) -> dict[str, Any]:
        """Count the sessions, those that were admitted, and by limit how often clients ran over it."""
        admitted = sum(session.state is State.CONNECTED for session in self.sessions)
        return {"sessions": len(self.sessions), "clients": admitted, "overruns": dict(self.overruns)}


def codec_for(handshake: Handshake, subprotocol: str | None) -> Codec:
    """Return the encoding that a client asks for (protocol, sections 2.1, 2.2 and 2.5)."""
    if handshake.is_one_way:
        return uni
    asked = handshake.query.get("cf_protocol") or handshake.query.get("format")
    return protobuf if subprotocol == "centrifuge-protobuf" or asked == "protobuf" else json
